"""Answers of other projects become a bank, whole or not at all; files made here in their forms."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from audit.bank import load
from audit.banks import importing
from audit.banks.importing import FORMATS, Imported, Tables, import_bank, remarks
from audit.errors import InputError
from tests.fakes import banks


def sha(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def put(path: Path, rows: object) -> Path:
    """Write rows as the file's name asks: a JSON list, or JSON Lines."""
    if path.suffix == ".json":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
        return path
    assert isinstance(rows, list)
    return banks.lines(path, rows)


def alpaca_eval(root: Path, models: tuple[str, ...] = ("one", "two")) -> Path:
    for name in models:
        rows = [
            {"dataset": "d", "instruction": f"ask {i}", "output": f"{name} {i}", "generator": "g"}
            for i in range(3)
        ]
        put(root / "results" / name / "model_outputs.json", rows)
        put(root / "results" / name / "weighted" / "annotations.json", [{"preference": 1}])
    put(root / "results" / "leaderboard.json", {"one": 1})
    return root


def arena_hard(root: Path) -> Path:
    """Both versions, of one model that is in both and two that are in one."""
    old, new = root / "data" / "v0.1", root / "data" / "v2.0"
    put(old / "question.jsonl", [{"question_id": "q1", "turns": [{"content": "old ask"}]}])
    choice = {"index": 0, "turns": [{"content": "old said", "token_len": 2}]}
    for name in ("both", "old"):
        rows = [{"question_id": i, "model_id": name, "choices": [choice]} for i in ("q1", "q9")]
        put(old / "model_answer" / f"{name}.jsonl", rows)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "new ask"},
        {"role": "assistant", "content": {"answer": "new said"}},
    ]
    for name in ("both", "new"):
        rows = [{"uid": "u1", "ans_id": "a", "model": name, "messages": messages}]
        put(new / "model_answer" / f"{name}.jsonl", rows)
    put(new / "model_judgment" / "judge" / "both.jsonl", [{"uid": "u1", "games": []}])
    return root


def wildbench(root: Path) -> Path:
    turns = ["first ask", "first said", "second ask"]
    rows = [
        {"session_id": "s1", "chat_history": ["ask"], "model_input": "<t>ask", "output": ["said"]},
        {"session_id": "s2", "chat_history": turns, "model_input": "n/a", "output": ["and", "or"]},
        {"session_id": "s3", "model_input": "<t>ask", "output": ["third"], "generator": "x/one"},
    ]
    put(root / "result_dirs" / "v2" / "one.json", rows)
    put(root / "eval_results" / "judge.json", [{"session_id": "s1", "model_output": "x"}])
    return root


def lm_eval(root: Path) -> Path:
    def row(number: int, said: str, prompt: str) -> dict[str, object]:
        return {
            "doc_id": number,
            "doc": {"question": "?"},
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Q:"]}}},
            "resps": [[said]],
            "filtered_resps": [said[:1]],
            "filter": "strict",
        }

    stamp = "2025-01-02T03-04-05.678901.jsonl"
    folder = root / "out" / "lab__one"
    put(folder / f"samples_gsm_8k_{stamp}", [row(0, "new", "<t>ask"), row(0, "new", "<t>ask")])
    put(
        folder / "samples_gsm_8k_2024-12-31T23-59-59.9.jsonl", [row(0, "old", "a"), row(1, "o", "")]
    )
    scores = {
        "doc_id": 0,
        "arguments": {"gen_args_0": {"arg_0": "ask", "arg_1": " yes"}},
        "resps": [[["-1.5", "False"]], [["-2.5", "True"]]],
    }
    rolled = {"doc_id": 0, "arguments": [["a long text"]], "resps": [["-120.5"]]}
    put(folder / f"samples_choice_{stamp}", [scores, rolled])
    put(folder / "results_2025.json", {"results": {}})
    old = {"doc_id": 4, "arguments": [["ask", {"until": []}]], "filtered_resps": ["written"]}
    put(root / "out" / "lab__two" / f"samples_gsm_8k_{stamp}", [old])
    return root


MAKERS = {
    "alpaca-eval": alpaca_eval,
    "arena-hard": arena_hard,
    "wildbench": wildbench,
    "lm-eval": lm_eval,
}


def answers(bank: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Every model's prompts and answers by id."""
    loaded = load(bank)
    return {
        model.name: {i: (r.prompt, r.response) for i, r in loaded.answers(model.name).items()}
        for model in loaded.models
    }


def refusal(source: Path, out: Path, **options: object) -> str:
    """Import what must be refused, and see that nothing is left of it."""
    before = sorted(out.parent.iterdir()) if out.parent.exists() else []
    with pytest.raises(InputError) as caught:
        import_bank(source, out, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert (sorted(out.parent.iterdir()) if out.parent.exists() else []) == before
    return str(caught.value)


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


# What a source may be like.


def test_of_several_answers_to_a_prompt_the_first_is_kept_and_the_rest_are_counted(tmp_path):
    rows = [{"instruction": a, "output": b} for a, b in ("px", "qy", "pz")]
    put(tmp_path / "clone" / "one" / "model_outputs.json", rows)
    done = import_bank(tmp_path / "clone", tmp_path / "bank")
    assert [said for _, said in answers(tmp_path / "bank")["one"].values()] == ["x", "y"]
    assert done.repeated == 1
    assert remarks(done)[1].startswith("1 rows answer a prompt that the same model answers")


def test_models_without_an_answer_are_left_out_and_named(tmp_path):
    root = lm_eval(tmp_path / "clone")
    scores = {"doc_id": 0, "arguments": [["ask", " yes"]], "resps": [[[-1.5, False]]]}
    put(root / "out" / "scorer" / "samples_choice.jsonl", [scores])
    put(root / "out" / "mute" / "samples_choice.jsonl", [])
    done = import_bank(root, tmp_path / "bank")
    assert done.silent == ("mute", "scorer")
    assert set(answers(tmp_path / "bank")) == {"lab__one", "lab__two"}
    assert "3 rows hold scores" in remarks(done)[2]
    assert remarks(done)[3].startswith("mute, scorer: no answer in the files")


def test_missing_answers_are_empty(tmp_path):
    rows = [{"instruction": "p", "output": None}, {"instruction": "q", "output": []}]
    put(tmp_path / "clone" / "one" / "model_outputs.json", rows)
    import_bank(tmp_path / "clone", tmp_path / "bank")
    assert [said for _, said in answers(tmp_path / "bank")["one"].values()] == ["", ""]


def test_odd_texts_and_names_come_through_unchanged(tmp_path):
    odd = "lone \ud800, nul \0, \u2028\u0085 \U0001f600 \r\n\ttab"
    name = "gpt+4.0 (new), 模型"
    path = tmp_path / "clone" / name / "model_outputs.json"
    put(path, [{"instruction": odd, "output": odd}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    import_bank(tmp_path / "clone", tmp_path / "bank")
    assert list(answers(tmp_path / "bank")[name].values()) == [(odd, odd)]


def test_an_answer_of_many_megabytes_comes_through(tmp_path):
    said = "word " * 4_000_000
    put(tmp_path / "clone" / "one" / "model_outputs.json", [{"instruction": "p", "output": said}])
    import_bank(tmp_path / "clone", tmp_path / "bank")
    assert answers(tmp_path / "bank")["one"][sha("p")][1] == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not valid JSON"),
        ('[{"instruction": "p", "outp', "not valid JSON"),
        ('{"instruction": "p"}', "needs a JSON list of answers, not dict"),
        ("7", "needs a JSON list of answers, not int"),
        ('["text"]', ", item 1: needs a JSON object, not str"),
        ('[{"instruction": "p", "output": "x"}, {"output": "x"}]', ", item 2: has no instruction."),
        ('[{"instruction": "p"}]', ", item 1: has no output."),
        ('[{"instruction": "p", "output": 7}]', ", item 1: needs a text, not int."),
        ('[{"instruction": "p", "output": [7]}]', ", item 1: needs a text, not int."),
        ('[{"instruction": "p", "output": {"x": "y"}}]', ", item 1: needs a text, not dict."),
        ('[{"instruction": "p", "output": true}]', ", item 1: needs a text, not bool."),
        ('[{"instruction": "", "output": "x"}]', ", item 1: instruction is empty"),
        ("[" * 100_000, "nested too deep"),
        (f"[{'9' * 5_000}]", "not valid JSON"),
        (b'[{"instruction": "p", "output": "\xff"}]', "not UTF-8 (byte 33)"),
        (b"\0\0\0", "not valid JSON"),
    ],
)
def test_a_broken_row_is_named_and_leaves_nothing_behind(tmp_path, content, said):
    alpaca_eval(tmp_path / "clone", ("one",))
    path = tmp_path / "clone" / "results" / "two" / "model_outputs.json"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refusal(tmp_path / "clone", tmp_path / "bank")
    assert said in sentence and str(path) in sentence


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"uid": "u", "messages": []}, "line 2: has no message of the user."),
        ({"uid": "u", "messages": "text"}, "line 2: has no message of the user."),
        ({"uid": "u", "messages": [{"role": "user", "content": "x"}]}, "of the assistant."),
        ({"choices": [{"turns": ["x"]}]}, "line 2: has no question_id or uid."),
        ({"uid": "u", "choices": []}, "line 2: has no choices[0].turns[0]."),
        ({"uid": "u", "choices": "abc"}, "line 2: has no choices[0].turns[0]."),
        ({"uid": "u", "choices": [{"turns": "abc"}]}, "line 2: has no choices[0].turns[0]."),
        ({"uid": "u", "choices": [{"turns": [{"content": 1}]}]}, "line 2: needs a text, not int"),
    ],
)
def test_a_broken_line_of_arena_hard_is_named(tmp_path, row, said):
    good = {"uid": "g", "choices": [{"turns": [{"content": "fine"}]}]}
    put(tmp_path / "in" / "model_answer" / "one.jsonl", [good, row])
    assert said in refusal(tmp_path / "in", tmp_path / "bank")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"session_id": "s"}, "has no output."),
        ({"output": ["x"]}, "has no session_id."),
        ({"session_id": "s", "output": ["x"], "chat_history": "ask"}, "is no list of turns"),
        ({"session_id": "s", "output": ["x"], "chat_history": [3]}, "needs a text, not int"),
    ],
)
def test_a_broken_row_of_wildbench_is_named(tmp_path, row, said):
    put(tmp_path / "one.json", [row])
    sentence = refusal(tmp_path / "one.json", tmp_path / "bank", format_name="wildbench")
    assert "one.json, item 1: " in sentence and said in sentence


def test_a_broken_row_of_lm_eval_is_named(tmp_path):
    path = tmp_path / "one" / "samples_t.jsonl"
    put(path, [{"resps": [["x"]]}])
    assert "line 1: has no doc_id." in refusal(tmp_path / "one", tmp_path / "bank")
    put(path, [{"doc_id": 1}])
    assert "line 1: has no filtered_resps." in refusal(tmp_path / "one", tmp_path / "bank")


@pytest.mark.parametrize(
    "name", ["two\nlines", "no\u200bwidth", "two  spaces", os.fsdecode(b"\xff")]
)
def test_a_model_whose_name_is_not_plain_is_refused(tmp_path, name):
    alpaca_eval(tmp_path / "clone", (name,))
    assert "is not plain text" in refusal(tmp_path / "clone", tmp_path / "bank")


def test_places_without_answers_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere", tmp_path / "bank")
    (tmp_path / "empty").mkdir()
    assert "no answers in a known place" in refusal(tmp_path / "empty", tmp_path / "bank")
    sentence = refusal(tmp_path / "empty", tmp_path / "bank", format_name="lm-eval")
    assert "holds no .json or .jsonl file" in sentence
    put(tmp_path / "mute" / "one" / "model_outputs.json", [])
    assert "holds no written answer" in refusal(tmp_path / "mute", tmp_path / "bank")


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
