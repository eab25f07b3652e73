"""A description counts what is in the files, and names what a user should look into."""

import json
from pathlib import Path

import pytest

from audit.bank import load
from audit.banks.describe import Description, PairCounts, Twins, describe, to_json
from audit.banks.listing import text
from audit.errors import InputError
from tests.fakes import banks


def described(path: Path, answers: dict[str, dict[str, str]]) -> Description:
    return describe(load(banks.write(path, answers)))


def test_a_bank_is_counted(tmp_path):
    found = describe(load(banks.tiny(tmp_path)))
    assert (found.families, found.groups, found.prompts, found.common_prompts) == (4, 2, 6, 6)
    assert [m.model for m in found.models] == ["a-1", "a-2", "b-1", "pupil", "lone"]
    first = found.models[0]
    assert (first.family, first.role, first.group) == ("alpha", "teacher", "A")
    assert (first.answers, first.empty, first.repeated, first.refused, first.cut_off) == (
        6, 0, 0, 0, 0,
    )  # fmt: skip
    assert first.mean_words == 6
    assert found.pairs == (
        PairCounts(truth="negative", basis="documented", pairs=2),
        PairCounts(truth="positive", basis="documented", pairs=1),
        PairCounts(truth="self", basis="member of the group", pairs=1),
        PairCounts(truth="unknown", basis="undisclosed", pairs=1),
    )
    assert found.twins == () and found.notes == ()
    assert found.sha256 == load(tmp_path).sha256()


def test_empty_and_refused_answers_are_counted_apart(tmp_path):
    said = {"p": "", "q": " \n", "r": "I cannot do that.", "s": "A fine answer."}
    (model,) = described(tmp_path, {"one": said}).models
    assert (model.answers, model.empty, model.refused, model.mean_words) == (4, 2, 1, 3.5)


def test_a_model_without_a_word_has_no_mean(tmp_path):
    (model,) = described(tmp_path, {"one": {"p": ""}}).models
    assert model.mean_words is None and model.cut_off == 0


def test_an_answer_given_three_times_repeats_itself_twice(tmp_path):
    said = {"p": "same", "q": "same", "r": "same", "s": "other", "t": "", "u": ""}
    (model,) = described(tmp_path, {"one": said}).models
    assert model.repeated == 2


def test_the_same_prompt_under_two_ids_may_have_one_answer(tmp_path):
    banks.write(tmp_path, {"one": {}})
    rows = [{"id": i, "prompt": "same", "response": "said"} for i in "ab"]
    banks.lines(tmp_path / "responses" / "one.jsonl", rows)
    assert describe(load(tmp_path)).models[0].repeated == 0


def test_only_long_answers_that_break_off_count_as_cut_off(tmp_path):
    said = {
        "p": "short list",
        "q": "another list,",
        "r": "this one is longer than most and stops in the",
        "s": "this one is longer than most and has its own end.",
        "t": "```\nopen",
        "u": "fine.",
    }
    assert described(tmp_path, {"one": said}).models[0].cut_off == 2


def test_where_a_file_says_why_an_answer_ended_that_counts(tmp_path):
    banks.write(tmp_path, {"one": {}}, packed=True)
    long = "this goes on and on and"
    rows = [
        {"id": "a", "prompt": "", "response": "short.", "finish_reason": "length"},
        {"id": "b", "prompt": "", "response": long, "finish_reason": "stop"},
        {"id": "c", "prompt": "", "response": long + ' "finish_reason"'},
        {"id": "d", "prompt": "", "response": long, "finish_reason": None},
        *({"id": i, "prompt": "", "response": f"{i}."} for i in "efgh"),
    ]
    banks.lines(tmp_path / "responses" / "one.jsonl.gz", rows)
    # a by its reason and d by its end; c ends in a quotation mark.
    assert describe(load(tmp_path)).models[0].cut_off == 2
    rows[3]["finish_reason"] = "stop"
    banks.lines(tmp_path / "responses" / "one.jsonl.gz", rows)
    assert describe(load(tmp_path)).models[0].cut_off == 1


def test_prompts_common_to_all_are_told_from_all_prompts(tmp_path):
    found = described(tmp_path, {"one": {"p": "1", "q": "2"}, "two": {"q": "3", "r": "4"}})
    assert (found.prompts, found.common_prompts) == (3, 1)


def test_models_that_mostly_say_the_same_are_named(tmp_path):
    answers = {
        "one": {"p": "1", "q": "2", "r": "3", "s": ""},
        "two": {"p": "1", "q": "2", "r": "x", "s": ""},
        "half": {"p": "1", "q": "y"},
        "swapped": {"p": "2", "q": "1"},
    }
    assert described(tmp_path, answers).twins == (
        Twins(model="one", other="two", same=2, prompts=3),
    )


def test_what_a_user_should_look_into_is_noted(tmp_path):
    labels = {"one": {"documented_teachers": "A;far away"}, "two": {"group": "A"}}
    said = {"p": "1"}
    banks.write(tmp_path, {"one": said, "two": said | {"q": "2"}, "mute": {}}, labels=labels,
                groups={"A": {}})  # fmt: skip
    banks.answers_file(tmp_path / "responses" / "stray.jsonl", {"p": "x"})
    row = {"id": "q", "prompt": "another", "response": "1"}
    with (tmp_path / "responses" / "one.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    mute, stray, reworded, unknown = describe(load(tmp_path)).notes
    assert mute.startswith("mute: the answers file has no row")
    assert stray.startswith("stray: answers without a line in models.csv")
    assert reworded.startswith("1 ids (q) stand for another prompt")
    assert unknown.startswith("far away: documented as teachers")


def test_empty_prompts_are_not_taken_for_other_prompts(tmp_path):
    banks.write(tmp_path, {"one": {"p": "1"}, "two": {"p": "2"}})
    row = {"id": "p", "prompt": "", "response": "1"}
    banks.lines(tmp_path / "responses" / "one.jsonl", [row])
    assert describe(load(tmp_path)).notes == ()


def test_a_broken_file_is_refused_by_name(tmp_path):
    banks.tiny(tmp_path)
    (tmp_path / "responses" / "lone.jsonl").write_text('{"id": "p", "prompt": "", "response": 7}\n')
    with pytest.raises(InputError, match=r"lone\.jsonl, line 1: needs a text 'response'"):
        describe(load(tmp_path))


def test_odd_texts_are_counted_as_any_other(tmp_path):
    odd = {"p": "lone \ud800 surrogate.", "q": "nul \0 inside.", "r": "\u2028\u0085 lines.",
           "s": "x" * 10_000_000}  # fmt: skip
    found = described(tmp_path, {"one": odd, "two": odd})
    assert [(m.answers, m.empty) for m in found.models] == [(4, 0), (4, 0)]
    assert found.twins == (Twins(model="one", other="two", same=4, prompts=4),)


# How it is shown.


def test_json_holds_everything_and_survives_a_round_trip(tmp_path):
    found = describe(load(banks.tiny(tmp_path)))
    shown = json.loads(json.dumps(to_json(found)))
    assert shown["schema"] == "spiritsafe.bank/1"
    assert shown["models"][3] == {
        "model": "pupil", "family": "pupil", "role": "student", "group": None, "answers": 6,
        "empty": 0, "repeated": 0, "refused": 0, "cut_off": 0, "mean_words": 6.0,
    }  # fmt: skip
    assert shown["pairs"][0] == {"truth": "negative", "basis": "documented", "pairs": 2}


def test_the_table_stands_in_columns_and_says_the_rest_below(tmp_path):
    answers = {"a long name": {"p": "same"}, "b": {"p": "same"}, "mute": {}}
    banks.write(tmp_path, answers, pairs=[])
    shown = text(describe(load(tmp_path))).splitlines()
    assert shown[0].split()[:3] == ["model", "family", "role"]
    assert shown[0].index("family") == shown[1].index("a long name", 1)
    assert [line[:4] for line in shown[1:4]] == ["a lo", "b   ", "mute"]
    assert shown[2].endswith("1") and shown[3].endswith("0")
    assert "3 models of 3 families, 0 groups of teachers; 1 prompts, 0 of them common" in shown[5]
    assert "the same answers: a long name and b, at 1 of 1 prompts" in shown
    assert any(line.startswith("note: mute") for line in shown)
    assert shown[-1].startswith("sha256 ")
