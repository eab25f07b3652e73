"""Answers of other projects become a bank, whole or not at all; files made here in their forms."""

import os
from pathlib import Path

import pytest

from audit.bank import load
from audit.banks import importing
from audit.banks.importing import FORMATS, Imported, Tables, import_bank, remarks
from tests.fakes import banks
from tests.fakes.clones import (
    MAKERS,
    alpaca_eval,
    answers,
    arena_hard,
    lm_eval,
    put,
    refusal,
    sha,
    wildbench,
)

# The formats.


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_told_by_its_files(tmp_path, name):
    done = import_bank(MAKERS[name](tmp_path / "clone"), tmp_path / "bank")
    assert done.format == name
    assert done.models == len(answers(tmp_path / "bank"))


def test_every_known_format_is_made_here():
    assert set(MAKERS) == set(FORMATS)


def test_alpaca_eval_names_models_by_folder_and_prompts_by_digest(tmp_path):
    done = import_bank(alpaca_eval(tmp_path / "clone"), tmp_path / "bank")
    assert answers(tmp_path / "bank") == {
        name: {sha(f"ask {i}"): (f"ask {i}", f"{name} {i}") for i in range(3)}
        for name in ("one", "two")
    }
    assert (done.models, done.answers, done.repeated, done.labelled) == (2, 6, 0, False)


def test_arena_hard_is_read_in_both_forms_into_one_bank(tmp_path):
    import_bank(arena_hard(tmp_path / "clone"), tmp_path / "bank")
    old = {sha("old ask"): ("old ask", "old said"), "q9": ("", "old said")}
    new = {sha("new ask"): ("new ask", "new said")}
    assert answers(tmp_path / "bank") == {"both": new | old, "new": new, "old": old}


def test_arena_hards_forerunner_has_turns_of_plain_text(tmp_path):
    rows = [{"question_id": 81, "choices": [{"turns": ["said", "more"]}]}]
    put(tmp_path / "mt_bench" / "model_answer" / "one.jsonl", rows)
    put(tmp_path / "mt_bench" / "question.jsonl", [{"question_id": 81, "turns": ["ask", "again"]}])
    import_bank(tmp_path / "mt_bench", tmp_path / "bank")
    assert answers(tmp_path / "bank") == {"one": {sha("ask"): ("ask", "said")}}


def test_wildbench_takes_the_chat_for_the_prompt_and_never_the_templated_input(tmp_path):
    import_bank(wildbench(tmp_path / "clone"), tmp_path / "bank")
    chat = "first ask\n\nfirst said\n\nsecond ask"
    assert answers(tmp_path / "bank") == {
        "one": {sha("ask"): ("ask", "said"), sha(chat): (chat, "and"), "s3": ("", "third")}
    }


def test_a_chat_of_messages_reads_as_one_of_texts(tmp_path):
    chat = [{"role": "user", "content": "ask"}]
    put(tmp_path / "one.json", [{"session_id": "s", "chat_history": chat, "output": "said"}])
    import_bank(tmp_path / "one.json", tmp_path / "bank")
    assert answers(tmp_path / "bank") == {"one": {sha("ask"): ("ask", "said")}}


def test_lm_eval_goes_by_task_and_document_and_leaves_scores_out(tmp_path):
    done = import_bank(lm_eval(tmp_path / "clone"), tmp_path / "bank")
    assert answers(tmp_path / "bank") == {
        "lab__one": {"gsm_8k:0": ("<t>ask", "new"), "gsm_8k:1": ("", "o")},
        "lab__two": {"gsm_8k:4": ("ask", "written")},
    }
    assert (done.repeated, done.unwritten) == (2, 2)


def test_packed_samples_are_read(tmp_path):
    row = {"doc_id": 0, "resps": [["said"]]}
    put(tmp_path / "in" / "one" / "samples_task.jsonl.gz", [row])
    import_bank(tmp_path / "in", tmp_path / "bank")
    assert answers(tmp_path / "bank") == {"one": {"task:0": ("", "said")}}


def test_a_single_file_is_a_source(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    import_bank(root / "results" / "two" / "model_outputs.json", tmp_path / "bank")
    assert set(answers(tmp_path / "bank")) == {"two"}


def test_a_source_may_be_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(arena_hard(tmp_path / "clone") / "data" / "v0.1" / "model_answer")
    import_bank(Path(), tmp_path / "bank")
    assert set(answers(tmp_path / "bank")) == {"both", "old"}
    monkeypatch.chdir(tmp_path / "clone")
    import_bank(Path(), Path("bank"))
    assert set(answers(tmp_path / "clone" / "bank")) == {"both", "new", "old"}


def test_with_a_format_given_every_file_is_read_as_that(tmp_path):
    rows = [{"instruction": "ask", "output": "said", "generator": "g"}]
    put(tmp_path / "in" / "mine.json", rows)
    put(tmp_path / "in" / "theirs.jsonl", rows)
    assert "say --format" in refusal(tmp_path / "in", tmp_path / "bank")
    import_bank(tmp_path / "in", tmp_path / "bank", format_name="alpaca-eval")
    assert answers(tmp_path / "bank") == {
        name: {sha("ask"): ("ask", "said")} for name in ("mine", "theirs")
    }


def test_two_formats_in_one_place_need_a_word(tmp_path):
    alpaca_eval(tmp_path / "in")
    arena_hard(tmp_path / "in")
    said = refusal(tmp_path / "in", tmp_path / "bank")
    assert "alpaca-eval and arena-hard; say which with --format" in said
    done = import_bank(tmp_path / "in", tmp_path / "bank", format_name="arena-hard")
    assert done.models == 3


def test_hidden_folders_of_a_clone_are_passed_over(tmp_path):
    root = arena_hard(tmp_path / "clone")
    put(root / ".git" / "model_answer" / "old.jsonl", ["broken"])
    (root / "data" / "v2.0" / "model_answer" / "._new.jsonl").write_bytes(b"\0\5")
    assert import_bank(root, tmp_path / "bank").models == 3


# Tables.


def test_without_tables_every_model_is_its_own_family(tmp_path):
    done = import_bank(alpaca_eval(tmp_path / "clone"), tmp_path / "bank")
    bank = load(tmp_path / "bank")
    assert [(m.family, m.role, m.group) for m in bank.models] == [
        ("one", "vendor", None),
        ("two", "vendor", None),
    ]
    assert bank.model("one").relation == "" and bank.model("one").published is None
    header = (tmp_path / "bank" / "models.csv").read_text().splitlines()[0]
    assert header == ",".join(importing.COLUMNS)
    (remark,) = remarks(done)
    assert "fill in families" in remark


def test_given_tables_are_carried_along_to_the_byte(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    given = banks.write(
        tmp_path / "given",
        {"two": {}, "one": {}},
        labels={"two": {"vendor_or_family": "f", "role": "teacher", "group": "G"}},
        groups={"G": {"vendor": "v", "public_launch": "2023"}},
        pairs=[("one", "G", "positive", "documented")],
    )
    tables = Tables(
        models=given / "models.csv", groups=given / "groups.csv", pairs=given / "pairs.csv"
    )
    done = import_bank(root, tmp_path / "bank", tables=tables)
    for name in ("models.csv", "groups.csv", "pairs.csv"):
        assert (tmp_path / "bank" / name).read_bytes() == (given / name).read_bytes()
    bank = load(tmp_path / "bank")
    assert bank.groups[0].members == ("two",) and len(bank.truths) == 1
    assert done.labelled and remarks(done) == []


def test_only_models_of_the_given_table_are_imported(tmp_path):
    root = alpaca_eval(tmp_path / "clone", ("one", "two", "three"))
    given = banks.write(tmp_path / "given", {"two": {}}) / "models.csv"
    done = import_bank(root, tmp_path / "bank", tables=Tables(models=given))
    assert set(answers(tmp_path / "bank")) == {"two"}
    assert not (tmp_path / "bank" / "responses" / "one.jsonl").exists()
    assert done.unlisted == ("one", "three")
    assert remarks(done) == ["one, three: not in the given tables; left out."]


def test_a_labelled_model_without_answers_is_refused_with_its_line(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    put(root / "results" / "mute" / "model_outputs.json", [])
    given = banks.write(tmp_path / "given", {"one": {}, "mute": {}, "gone": {}}) / "models.csv"
    sentence = refusal(root, tmp_path / "bank", tables=Tables(models=given))
    assert f"{given}, line 3: {root} has no answers of mute, gone; take" in sentence


def test_tables_that_contradict_themselves_are_refused_before_anything_is_read(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    given = banks.write(tmp_path / "given", {"one": {}}, labels={"one": {"role": "x"}})
    sentence = refusal(root, tmp_path / "bank", tables=Tables(models=given / "models.csv"))
    assert "line 2: role is 'x'" in sentence


# Where the bank goes.


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / ".mine").write_text("precious")
    assert "not empty" in refusal(root, tmp_path / "bank")
    assert "not empty" in refusal(root, tmp_path / "bank" / ".mine")
    assert [path.name for path in (tmp_path / "bank").iterdir()] == [".mine"]


def test_an_empty_directory_and_missing_parents_are_fine(tmp_path):
    root = alpaca_eval(tmp_path / "clone")
    (tmp_path / "bank").mkdir()
    import_bank(root, tmp_path / "bank")
    import_bank(root, tmp_path / "new" / "bank")
    assert load(tmp_path / "bank").sha256() == load(tmp_path / "new" / "bank").sha256()
    assert sorted(os.listdir(tmp_path / "bank")) == ["models.csv", "responses"]


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    root = alpaca_eval(tmp_path / "clone")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_write_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_bank(root, tmp_path / "out" / "bank")
    assert list((tmp_path / "out").iterdir()) == []


def test_long_lists_of_models_are_cut_in_remarks(tmp_path):
    done = Imported(path=tmp_path, format="lm-eval", models=1, answers=1, repeated=0, unwritten=0,
                    unlisted=("a", "b", "c", "d", "e"), silent=(), labelled=True)  # fmt: skip
    assert remarks(done) == ["a, b, c and 2 more: not in the given tables; left out."]
