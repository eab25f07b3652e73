"""Every kind of source gives the same documents, and what is malformed is named by file and row."""

import gzip
import json

import pyarrow
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from pyarrow import parquet

from distill.errors import InputError
from distill.text import sources
from distill.text.sources import Document, load

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the still?"},
    {"role": "assistant", "content": "By the river."},
]
ROWS = [
    {"text": "a first text"},
    {"id": "second", "text": "another", "tag": "letters"},
    {"messages": CHAT},
    {"prompt": "Why?", "response": "Because.", "id": 4},
]
EXPECTED = [
    ("1", "a first text", "rows", 0),
    ("second", "another", "letters", 0),
    ("3", "Be brief.\n\nWhere is the still?\n\nBy the river.", "rows", 3),
    ("4", "Why?\n\nBecause.", "rows", 2),
]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows) -> pyarrow.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.table({n: [str(r[n]) if n == "id" and n in r else r.get(n) for r in rows]
                          for n in names})  # fmt: skip


def plain(documents) -> list[tuple[str, str, str, int]]:
    return [(d.id, d.text, d.tag, len(d.messages)) for d in documents]


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        load([str(path)])
    return str(caught.value)


def test_pythons_help_topics_load_and_are_named():
    found = load(["pydoc"])
    assert len(found) > 50
    assert all(d.id.startswith("pydoc/") and d.text.strip() and d.tag == "pydoc" for d in found)
    assert len({d.id for d in found}) == len(found)


def test_the_seed_prompts_load_and_are_named():
    found = load(["prompts"])
    assert len(found) == 240
    assert all(d.id.startswith("prompts/") and d.text.strip() and d.tag == "prompts" for d in found)


def test_sources_follow_each_other_in_the_order_given(tmp_path):
    (tmp_path / "one.txt").write_text("first")
    (tmp_path / "two.md").write_text("second")
    rows = [json.dumps({"text": "third"}), "", json.dumps({"text": "fourth", "more": 1})]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    found = load([str(tmp_path / name) for name in ("two.md", "rows.jsonl", "one.txt")])
    assert plain(found) == [
        ("files/two.md", "second", "two", 0),
        ("rows.jsonl/1", "third", "rows", 0),
        ("rows.jsonl/2", "fourth", "rows", 0),
        ("files/one.txt", "first", "one", 0),
    ]


def test_rows_are_the_same_documents_in_every_kind_of_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines(ROWS))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    parquet.write_table(table(ROWS), tmp_path / "rows.parquet")
    Dataset(table(ROWS)).save_to_disk(tmp_path / "rows")
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows"):
        found = load([str(tmp_path / name)])
        assert plain(found) == [(f"{name}/{row}", *more) for row, *more in EXPECTED]
        assert list(found[2].messages) == CHAT
        assert [m["role"] for m in found[3].messages] == ["user", "assistant"]


def test_a_text_is_taken_before_a_chat_and_nulls_are_nothing(tmp_path):
    rows = [
        {"text": "words", "messages": CHAT},
        {"text": None, "id": None, "tag": None, "messages": CHAT, "prompt": None},
    ]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    text, chat = load([str(tmp_path / "rows.jsonl")])
    assert (text.text, text.messages) == ("words", ())
    assert (chat.id, chat.tag, len(chat.messages)) == ("rows.jsonl/2", "rows", 3)


def test_sharegpt_and_calls_of_tools_are_chats(tmp_path):
    call = {"type": "function", "function": {"name": "look", "arguments": {"where": "yard"}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    rows = [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {"conversations": CHAT},
        {
            "tools": tools,
            "messages": [
                {"role": "user", "content": "What is there?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "a cask"},
                {"role": "assistant", "content": "A cask."},
            ],
        },
    ]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    first, second, third = load([str(tmp_path / "rows.jsonl")])
    assert [m["role"] for m in first.messages] == ["user", "assistant"]
    assert [m["content"] for m in first.messages] == ["Hi", "Ho"]
    assert list(second.messages) == CHAT
    assert third.messages[1] == {"role": "assistant", "tool_calls": [call]}
    assert third.text == "What is there?\n\na cask\n\nA cask."
    assert list(third.tools) == tools


def test_a_directory_gives_all_its_files_in_order_of_their_names(tmp_path):
    place = tmp_path / "ours"
    (place / "deep").mkdir(parents=True)
    (place / ".git").mkdir()
    (place / "b.jsonl").write_text(lines(ROWS[:1]))
    (place / "deep" / "a.txt").write_text("deep words")
    (place / "a.md").write_text("words")
    (place / "picture.png").write_bytes(b"\x89")
    (place / ".git" / "notes.txt").write_text("hidden")
    assert plain(load([str(place)])) == [
        ("ours/a.md", "words", "ours", 0),
        ("ours/b.jsonl/1", "a first text", "ours", 0),
        ("ours/deep/a.txt", "deep words", "ours", 0),
    ]
    (tmp_path / "none").mkdir()
    assert refused(tmp_path / "none").startswith(f"{tmp_path / 'none'} holds no .txt, .md, .jsonl,")


def test_of_a_saved_set_with_splits_one_is_named(tmp_path):
    rows = Dataset.from_list([{"text": "words"}], Features({"text": Value("string")}))
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    expected = f"holds several splits (train, test); name one, as {tmp_path / 'saved' / 'test'}"
    assert expected in refused(tmp_path / "saved")
    assert plain(load([str(tmp_path / "saved" / "test")])) == [("test/1", "words", "test", 0)]


def test_columns_that_are_not_asked_for_are_not_read(tmp_path):
    many = {"text": ["words"], "embedding": [[0.5] * 9], "id": [7]}
    parquet.write_table(pyarrow.table(many), tmp_path / "rows.parquet")
    found = list(sources.rows(tmp_path / "rows.parquet", ("text", "tag")))
    assert found == [(f"{tmp_path / 'rows.parquet'}, row 1", {"text": "words"})]
    features = Features({"text": Value("string"), "more": List(Value("int64"))})
    Dataset.from_list([{"text": "words", "more": [1]}], features).save_to_disk(tmp_path / "saved")
    assert [row for _, row in sources.rows(tmp_path / "saved", ("text",))] == [{"text": "words"}]


def test_documents_are_read_one_by_one(tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines(ROWS[:1]) + "no JSON\n")
    found = sources.read(str(tmp_path / "rows.jsonl"))
    assert isinstance(next(found), Document)
    with pytest.raises(InputError, match=r"line 2: not valid JSON"):
        next(found)


def test_a_source_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "directory.jsonl").mkdir()
    (tmp_path / "directory.jsonl" / "state.json").touch()
    packed = gzip.compress(lines(ROWS).encode() * 9)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "text.jsonl.gz").write_text(lines(ROWS))
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_info.json").write_text("{")
    expected = {
        "absent.txt": "does not exist",
        "absent.jsonl": "does not exist",
        "absent.parquet": "does not exist",
        "empty.txt": "is empty",
        "empty.jsonl": "is empty",
        "latin.txt": "is not UTF-8 (byte 3)",
        "directory.jsonl": "holds no .txt",
        "cut.jsonl.gz": "cannot be read: Compressed file ended",
        "text.jsonl.gz": "cannot be read: Not a gzipped file",
        "text.parquet": "cannot be read as Parquet",
        "broken": "cannot be read as a saved set",
    }
    for name, reason in expected.items():
        assert refused(tmp_path / name).startswith(f"{tmp_path / name} {reason}")


def test_an_unknown_kind_of_source_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'text\.pdf' is unknown; use pydoc, prompts, a \.txt"):
        load(["text.pdf"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "not valid JSON"),
        ("[1]", "needs a JSON object, not list"),
        ('{"prompt": "x"}', "needs an object with a text under 'text'"),
        ('{"text": 3}', "needs an object with a text under 'text'"),
        ('{"prompt": "x", "response": ["y"]}', "and 'response'"),
        ('{"text": "half of a pair: \\ud83d"}', "half of a surrogate pair"),
        ('{"text": "x", "tag": "\\ud83d"}', "half of a surrogate pair"),
        ('{"text": "x", "id": 1.5}', "'id' must be a text, not 1.5"),
        ('{"text": "x", "tag": 1}', "'tag' must be a text, not 1"),
        ('{"messages": []}', "a chat must be a list of messages"),
        ('{"messages": "Hi"}', "a chat must be a list of messages"),
        ('{"messages": [{"content": "Hi"}]}', "message 1 needs an object with a 'role'"),
        ('{"messages": [{"role": "user"}]}', "message 1 needs a text under 'content'"),
        ('{"messages": [{"role": "user", "content": ["Hi"]}]}', "message 1 needs a text under"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "no message is the assistant's"),
        ('{"conversations": [{"value": "Hi"}]}', "needs 'from' and 'value'"),
        ('{"conversations": [{"from": "human", "value": "Hi"}]}', "no message is the assistant's"),
        ('{"text": "x", "tools": {}}', "'tools' must be a list of JSON schemas"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    assert refused(path).startswith(f"{path}, line 3: ")
    assert reason in refused(path)


def test_a_line_that_is_not_utf_8_and_a_malformed_row_are_named(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    assert "rows.jsonl, line 2: not UTF-8 (byte 13 of the line)" in refused(tmp_path / "rows.jsonl")
    parquet.write_table(pyarrow.table({"text": ["x", None]}), tmp_path / "rows.parquet")
    assert "rows.parquet, row 2: needs an object" in refused(tmp_path / "rows.parquet")
    Dataset.from_list([{"prompt": "x"}]).save_to_disk(tmp_path / "saved")
    assert "saved, row 1: needs an object" in refused(tmp_path / "saved")


def test_columns_of_other_names_are_named(tmp_path):
    parquet.write_table(pyarrow.table({"words": ["x"], "more": [1]}), tmp_path / "rows.parquet")
    Dataset.from_list([{"words": "x", "more": 1}]).save_to_disk(tmp_path / "saved")
    for name in ("rows.parquet", "saved"):
        expected = f"{tmp_path / name} has the columns words, more; rename what should be read"
        assert refused(tmp_path / name).startswith(expected)


def test_only_a_newline_ends_a_line_of_json(tmp_path):
    # JSON allows these raw inside a text, and writers that keep non-ASCII leave them there.
    text = "one\u2028two\u2029three\x85four"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [d.text for d in load([str(path)])] == [text]


@pytest.mark.parametrize(("name", "package"), [("rows.parquet", "pyarrow"), ("saved", "datasets")])
def test_a_missing_reader_is_named(tmp_path, monkeypatch, name, package):
    parquet.write_table(pyarrow.table({"text": ["x"]}), tmp_path / "rows.parquet")
    Dataset.from_list([{"text": "x"}]).save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert f"reading it needs {package}; run: pip install" in refused(tmp_path / name)
