"""Answers are read as they are written, and every unusable file is refused in one sentence."""

import gzip
import json
from pathlib import Path

import pytest

from audit.errors import InputError
from audit.responses import Response, is_responses_file, read, write

GOOD = '{"id": "a", "prompt": "p", "response": "r"}'


def file(tmp_path: Path, *lines: str, name: str = "answers.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


def test_answers_come_in_order_with_their_documents(tmp_path):
    path = file(
        tmp_path,
        '{"id": "b", "prompt": "", "response": " kept as is ", "document": "d1", "logprobs": []}',
        "",
        GOOD,
    )
    assert read(path) == [
        Response(id="b", prompt="", response=" kept as is ", document="d1"),
        Response(id="a", prompt="p", response="r", document="a"),
    ]


def test_gzipped_answers_read_the_same(tmp_path):
    plain = file(tmp_path, GOOD)
    packed = tmp_path / "answers.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(packed) == read(plain)


def test_what_is_written_is_read_back(tmp_path):
    said = 'two\nlines\ttab \u2028 \u0085 \x1c caf\u00e9 \U0001f600 \ud800 "quotes"'
    rows = [Response(id="a", prompt=said, response=said, document="d\u2029")]
    path = tmp_path / "new" / "answers.jsonl"
    write(path, rows)
    assert read(path) == rows
    assert [entry.name for entry in path.parent.iterdir()] == ["answers.jsonl"]


def test_separators_that_json_allows_in_a_text_do_not_end_a_line(tmp_path):
    line = json.dumps({"id": "a", "prompt": "p", "response": "x\u2028y\u0085z"}, ensure_ascii=False)
    rows = read(file(tmp_path, line, GOOD.replace('"a"', '"b"')))
    assert [row.response for row in rows] == ["x\u2028y\u0085z", "r"]


def test_line_ends_of_windows_do_not_matter(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(f"{GOOD}\r\n\r\n".encode())
    assert [row.id for row in read(path)] == ["a"]


def test_a_write_cut_short_leaves_what_stood_there(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path, [Response(id="a", prompt="p", response="r", document="a")])

    def broken():
        yield Response(id="b", prompt="p", response="r", document="b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, broken())
    assert [row.id for row in read(path)] == ["a"]


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "answers.jsonl")


@pytest.mark.parametrize("content", ["", " \n\n\t"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    assert "is empty" in refusal(path)


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"12345\xff")
    assert "not UTF-8 (byte 5)" in refusal(path)


def test_damaged_gzip_files_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl.gz"
    whole = gzip.compress(b"x" * 1000 + bytes(range(256)))
    for damaged in (b"plain", whole[:-12], whole[:12] + b"\xff" * 8 + whole[20:]):
        path.write_bytes(damaged)
        assert "cannot be read" in refusal(path)


def test_a_directory_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.mkdir()
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "b", "prompt"', "not valid JSON"),
        ("[1, 2]", "needs a JSON object, not list"),
        ('"text"', "needs a JSON object, not str"),
        ('{"prompt": "p", "response": "r"}', "needs a text 'id'"),
        ('{"id": 7, "prompt": "p", "response": "r"}', "needs a text 'id'"),
        ('{"id": "b", "response": "r"}', "needs a text 'prompt'"),
        ('{"id": "b", "prompt": "p", "response": null}', "needs a text 'response'"),
        (GOOD, "id 'a' was on line 1 already"),
    ],
)
def test_an_unusable_line_is_named_by_its_number(tmp_path, line, said):
    sentence = refusal(file(tmp_path, GOOD, "", line))
    assert ", line 3: " in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jsonl", True), ("a.jsonl.gz", True), ("a.json", False), ("a.gz", False), ("a", False)],
)
def test_a_responses_file_is_told_by_its_name(name, expected):
    assert is_responses_file(Path("somewhere") / name) is expected
