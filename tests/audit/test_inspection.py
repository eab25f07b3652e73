"""What was changed, added, renamed or lost is a row that names it, and nothing is a traceback."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.attest import canonical_bytes, file_digest
from audit.inspection import GONE, LOOSE, UNNAMED, Inspection, Row, of_files, of_statement
from audit.statement import STATEMENT, statement, subjects, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "audit"
    (root / "responses").mkdir(parents=True)
    (root / "report.json").write_text('{"score":0.5}')
    (root / "config.json").write_text('{ "loose": true }')
    (root / "responses" / "one.jsonl").write_text('{"id": 1}\n')
    write(root, statement(subjects(root), "https://example.org/claim/v1", {"claim": 1}))
    return root


def rows(place: Path) -> dict[str, Row]:
    own, named = of_statement(place)
    found = [own, *of_files(place, named, is_canonical=lambda name: name == "report.json")]
    assert len({row.what for row in found}) == len(found)
    return {row.what: row for row in found}


def bad(place: Path) -> dict[str, str]:
    return {name: row.seen for name, row in rows(place).items() if row.ok is False}


def test_an_untouched_directory_is_intact_and_every_file_has_a_row(place: Path):
    found = rows(place)
    assert sorted(found) == ["config.json", "report.json", "responses/one.jsonl", STATEMENT]
    assert all(row.ok for row in found.values())
    assert found["report.json"].seen == file_digest(place / "report.json")


def test_a_changed_file_is_named_with_both_digests(place: Path):
    before = file_digest(place / "report.json")
    (place / "report.json").write_text('{"score":0.6}')
    after = file_digest(place / "report.json")
    said = f"was changed: its sha256 is {after}, not {before}"
    assert bad(place) == {"report.json": said}


def test_a_renamed_file_is_both_gone_and_added(place: Path):
    (place / "responses" / "one.jsonl").rename(place / "two.jsonl")
    assert bad(place) == {"responses/one.jsonl": GONE, "two.jsonl": UNNAMED}


def test_json_that_should_be_canonical_and_is_not_is_told_even_if_its_digest_is_named(place: Path):
    (place / "report.json").write_text('{"score": 0.5}')
    write(place, statement(subjects(place), "https://example.org/claim/v1", {"claim": 1}))
    assert bad(place) == {"report.json": LOOSE}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.data())
def test_any_other_byte_in_a_statement_is_told(place: Path, data):
    whole = (place / STATEMENT).read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[offset]))
    (place / STATEMENT).write_bytes(whole[:offset] + bytes([other]) + whole[offset + 1 :])
    assert STATEMENT in bad(place)
    (place / STATEMENT).write_bytes(whole)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.binary(max_size=200))
def test_garbage_in_place_of_a_statement_is_a_row(place: Path, data):
    (place / STATEMENT).write_bytes(data)
    assert STATEMENT in bad(place)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"_type": "https://in-toto.io/Statement/v1"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicate": []},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [{}], "predicate": {}},
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "a", "digest": {"sha256": "0"}}] * 2,
            "predicate": {},
        },
        {"_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicate": {}},
    ],
)
def test_json_that_is_no_statement_is_a_row_and_names_nothing(place: Path, value):
    (place / STATEMENT).write_bytes(canonical_bytes(value))
    assert of_statement(place)[0].ok is False and of_statement(place)[1] == {}


@pytest.mark.parametrize("data", [b"[" * 100_000, b"1" * 100_000, b"1e999", b'{"a":1}\n', b"NaN"])
def test_what_would_trouble_a_reader_of_json_is_a_row(place: Path, data):
    (place / STATEMENT).write_bytes(data)
    assert STATEMENT in bad(place)


def test_a_statement_that_is_gone_or_no_file_leaves_every_file_unnamed(place: Path):
    (place / STATEMENT).unlink()
    assert rows(place)[STATEMENT].seen == GONE
    assert rows(place)["report.json"].seen == UNNAMED
    os.mkfifo(place / STATEMENT)
    assert "neither a file" in next(r for r in of_files(place, {}) if r.what == STATEMENT).seen
    assert of_statement(place)[0].seen == "is not a file"


def test_a_link_out_of_the_directory_is_not_followed(place: Path, tmp_path: Path):
    outside = tmp_path / "outside.json"
    outside.write_bytes((place / "report.json").read_bytes())
    (place / "report.json").unlink()
    (place / "report.json").symlink_to(outside)
    assert bad(place) == {"report.json": "is a link to somewhere else"}


def test_a_subject_outside_the_directory_is_never_opened(place: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    value = json.loads((place / STATEMENT).read_bytes())
    outside = {"name": "../secret", "digest": {"sha256": file_digest(tmp_path / "secret")}}
    write(place, statement([*value["subject"], outside], value["predicateType"], {"claim": 1}))
    assert bad(place) == {"../secret": GONE}


def test_a_file_that_cannot_be_read_is_a_row(place: Path, monkeypatch):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("audit.inspection.file_digest", refuse)
    assert bad(place)["report.json"] == "cannot be read: Permission denied"


def test_the_summary_says_what_is_intact_what_is_not_and_what_was_not_checked():
    good, lost = Row(what="a", ok=True, seen="0"), Row(what="b", ok=False, seen=GONE)
    unsigned = Row(what="c", ok=None, seen="unsigned: nobody answers for it")
    assert Inspection(rows=(good, unsigned)).summary() == "intact: 1; c unsigned"
    both = Inspection(rows=(good, lost, lost))
    assert (both.ok, both.summary()) == (False, "NOT INTACT: b; intact: 1")


def test_nothing_checked_is_not_intact():
    assert not Inspection(rows=()).ok
    assert not Inspection(rows=(Row(what="c", ok=None, seen="unsigned"),)).ok


def test_only_the_files_that_are_asked_about_are_looked_at(place: Path):
    (place / "added").write_text("x")
    (place / "report.json").unlink()
    found = of_files(place, of_statement(place)[1], only=["report.json", "added"])
    assert {row.what: row.seen for row in found} == {"report.json": GONE, "added": UNNAMED}
