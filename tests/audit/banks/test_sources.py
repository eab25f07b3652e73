"""Files of other projects that are odd or broken: read as far as can be, or named and refused."""

import os

import pytest

from audit.banks.importing import import_bank, remarks
from tests.fakes.clones import alpaca_eval, answers, lm_eval, put, refusal, sha


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
