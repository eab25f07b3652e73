"""A statement names every other file of its directory, and pins itself."""

import json
import os
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Parsed

from audit.attest import canonical_bytes, digest, file_digest, tree_digest
from audit.errors import AuditError
from audit.statement import (
    ENVELOPE,
    OWN,
    STATEMENT,
    TREE,
    begin,
    files_under,
    own_digest,
    resource,
    statement,
    subjects,
    write,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "audit"
    (root / "responses").mkdir(parents=True)
    (root / "report.json").write_text("{}")
    (root / "responses" / "one.jsonl").write_text('{"id": 1}\n')
    (root / ".hidden").write_text("h")
    return root


def made(place: Path) -> dict:
    return statement(subjects(place), "https://example.org/claim/v1", {"claim": 0.5})


def test_subjects_are_all_other_files_sorted_with_forward_slashes(place: Path):
    (place / STATEMENT).write_text("{}")
    (place / ENVELOPE).write_text("{}")
    names = [".hidden", "report.json", "responses/one.jsonl"]
    assert subjects(place) == [
        {"name": name, "digest": {"sha256": file_digest(place / name)}} for name in names
    ]


def test_what_is_left_out_is_no_subject_and_is_not_entered(place: Path):
    found = files_under(place, lambda name: name == "responses")
    assert sorted(found.plain) == [".hidden", "report.json"]


def test_a_link_counts_as_a_file_only_if_it_stays_inside(place: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    (place / "inside").symlink_to("report.json")
    (place / "outside").symlink_to(tmp_path / "secret")
    (place / "nowhere").symlink_to("missing")
    (place / "circle").symlink_to("circle")
    (place / "directory").symlink_to("responses")
    os.mkfifo(place / "pipe")
    found = files_under(place)
    assert "inside" in found.plain
    assert found.odd["circle"].startswith("cannot be looked at: ")
    assert {name: said for name, said in found.odd.items() if name != "circle"} == {
        "directory": "is neither a file nor a plain directory",
        "nowhere": "is neither a file nor a plain directory",
        "outside": "is a link to somewhere else",
        "pipe": "is neither a file nor a plain directory",
    }
    assert [one["name"] for one in subjects(place)] == sorted(found.plain)


def test_a_name_that_is_not_utf_8_is_written_as_code_points(place: Path):
    (place / os.fsdecode(b"\xff.txt")).write_text("x")
    assert subjects(place)[-1]["name"] == "\u27e8U+DCFF\u27e9.txt"
    canonical_bytes(made(place))


def test_two_files_that_would_share_a_name_are_not_taken_for_one(place: Path):
    (place / os.fsdecode(b"\xff.txt")).write_text("x")
    (place / "\u27e8U+DCFF\u27e9.txt").write_text("y")
    found = files_under(place)
    assert list(found.odd) == ["\u27e8U+DCFF\u27e9.txt"]


def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(place: Path, monkeypatch):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("audit.statement.file_digest", refuse)
    with pytest.raises(AuditError, match="Permission denied; the statement names every file"):
        subjects(place)


def test_in_toto_takes_a_statement_for_one_of_its_own(place: Path):
    value = made(place)
    parsed = ParseDict(value, Parsed())
    Statement.copy_from_pb(parsed).validate()
    assert [subject.name for subject in parsed.subject] == sorted(files_under(place).plain)
    assert parsed.predicate["claim"] == 0.5


def test_a_statement_carries_the_digest_of_all_the_rest_of_it(place: Path):
    value = made(place)
    own = value["predicate"].pop(OWN)
    assert own == digest(value)
    assert own_digest({**value, "predicate": {**value["predicate"], OWN: "x"}}) == own


def test_a_statement_on_disk_is_its_canonical_bytes_and_older_envelopes_go(place: Path):
    (place / ENVELOPE).write_text("of an older one")
    write(place, made(place))
    assert (place / STATEMENT).read_bytes() == canonical_bytes(made(place))
    assert not (place / ENVELOPE).exists()


def test_to_begin_takes_both_away_and_nothing_else(place: Path):
    write(place, made(place))
    (place / ENVELOPE).write_text("{}")
    begin(place)
    begin(place)
    assert sorted(files_under(place).plain) == [".hidden", "report.json", "responses/one.jsonl"]


def test_the_digest_of_a_directory_is_not_called_sha256(place: Path):
    found = resource("weights", tree_digest(place), of=TREE, annotations={"kind": "a", "n": 1})
    assert found["digest"] == {"spiritsafe_tree_sha256": tree_digest(place)}
    assert json.loads(json.dumps(found))["annotations"] == {"kind": "a", "n": 1}
    assert "annotations" not in resource("x", "y")
