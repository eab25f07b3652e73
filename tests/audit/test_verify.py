"""`audit verify`: whatever is done to an audit or a validation is reported, and names the file."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit.attest import canonical_bytes
from audit.envelope import UNSIGNED, keygen
from audit.errors import InputError
from audit.inspection import GONE, UNNAMED, Inspection
from audit.signing import sign
from audit.verify import DRAWING, SCHEMA, inspect
from tests.fakes import audits


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each kind; a test changes copies of them."""
    work = tmp_path_factory.mktemp("records")
    audit = audits.answered(work / "answers")
    audits.add_log(audit)
    signed = work / "signed"
    shutil.copytree(audit, signed)
    private, public, _ = keygen(work / "key")
    sign(signed, private, inspect)
    validation = audits.validated(work)
    return {"audit": audit, "signed": signed, "validation": validation, "key": public}


@pytest.fixture
def place(originals, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["audit"], tmp_path / "audit"))


def bad(found: Inspection) -> dict[str, str]:
    return {row.what: row.seen for row in found.rows if row.ok is False}


def seen(found: Inspection, what: str) -> str:
    return next(row.seen for row in found.rows if row.what == what)


def files(directory: Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in found)


# Untouched.


@pytest.mark.parametrize("kind", ["audit", "validation"])
def test_a_copy_of_an_untouched_directory_is_intact_and_unsigned(originals, tmp_path, kind):
    copy = shutil.copytree(originals[kind], tmp_path / "elsewhere")
    found = inspect(copy)
    assert found.ok and not bad(found)
    named = {row.what for row in found.rows}
    assert named >= set(files(copy))
    assert seen(found, "statement.sig.json") == UNSIGNED
    assert found.summary().endswith("; statement.sig.json unsigned")


def test_a_signed_audit_is_intact_with_the_key_and_says_so_without(originals):
    assert inspect(originals["signed"], originals["key"]).ok
    found = inspect(originals["signed"])
    assert found.ok and seen(found, "statement.sig.json").startswith("not checked: it is signed by")
    assert not inspect(originals["audit"], originals["key"]).ok


def test_what_was_looked_at_is_left_as_it_was(place: Path):
    before = {name: (place / name).stat().st_mtime_ns for name in files(place)}
    inspect(place)
    assert {name: (place / name).stat().st_mtime_ns for name in files(place)} == before


# Changed.


@pytest.mark.parametrize("kind", ["audit", "signed", "validation"])
def test_one_other_byte_in_any_file_is_reported_and_names_the_file(originals, tmp_path, kind):
    copy = Path(shutil.copytree(originals[kind], tmp_path / kind))
    key = originals["key"] if kind == "signed" else None
    drawn = random.Random(3)
    for name in files(copy):
        data = (copy / name).read_bytes()
        for _ in range(3):
            offset = drawn.randrange(len(data))
            other = drawn.choice([byte for byte in range(256) if byte != data[offset]])
            (copy / name).write_bytes(data[:offset] + bytes([other]) + data[offset + 1 :])
            found = inspect(copy, key)
            assert not found.ok and name in bad(found), (name, offset, other)
            assert name in found.summary()
        (copy / name).write_bytes(data)
    assert inspect(copy, key).ok


@pytest.mark.parametrize("kind", ["audit", "signed", "validation"])
@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_file_cut_short_is_reported(originals, tmp_path, kind, keep):
    copy = Path(shutil.copytree(originals[kind], tmp_path / kind))
    key = originals["key"] if kind == "signed" else None
    for name in files(copy):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[:keep])
        assert name in bad(inspect(copy, key)), name
        (copy / name).write_bytes(data)


def test_a_renamed_file_is_gone_and_added(place: Path):
    for name in files(place):
        (place / name).rename(place / "other")
        told = bad(inspect(place))
        assert told[name] == GONE and (name == "statement.json" or told["other"] == UNNAMED)
        (place / "other").rename(place / name)


def test_an_added_file_is_reported_also_where_nothing_else_lies(place: Path):
    (place / "more").mkdir()
    (place / "more" / "notes.txt").write_text("x")
    assert bad(inspect(place)) == {"more/notes.txt": UNNAMED}


def test_a_report_and_a_statement_made_anew_are_betrayed_by_the_page(place: Path):
    value = json.loads((place / "report.json").read_bytes())
    value["findings"][0]["verdict"] = "SUPPORTED"
    (place / "report.json").write_bytes(canonical_bytes(value))
    audits.restate(place)
    assert bad(inspect(place)) == {DRAWING: "is not what report.json gives"}


def test_a_page_that_another_version_drew_is_not_compared(place: Path, monkeypatch):
    monkeypatch.setattr("audit.claims.tool", lambda: "spiritsafe 99")
    assert inspect(place).ok and not bad(inspect(place))
    (place / "report.html").write_text("another version's page")
    audits.restate(place)
    found = inspect(place)
    assert found.ok and found.summary().startswith("intact: 7; report.html: rendering of")
    assert "and this is spiritsafe 99" in seen(found, DRAWING)


def test_a_signature_betrays_a_statement_made_anew(originals, tmp_path):
    copy = Path(shutil.copytree(originals["signed"], tmp_path / "signed"))
    envelope = (copy / "statement.sig.json").read_bytes()
    (copy / "report.html").write_text("another page")
    audits.restate(copy)
    (copy / "statement.sig.json").write_bytes(envelope)
    for key in (None, originals["key"]):
        assert bad(inspect(copy, key))["statement.sig.json"].startswith("signs other bytes")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.update(schema="spiritsafe.report/2"), "schema: Input should be"),
        (lambda value: value.update(score=1), "score: Unexpected keyword argument"),
        (lambda value: value.pop("findings"), "findings: Field required"),
        (lambda value: value.pop("command"), "a field is left out"),
        (lambda value: value["settings"].update(alpha="0.05"), ""),
        (lambda value: value["findings"][0].update(score="1"), "of another type"),
    ],
)
def test_a_report_that_departs_from_the_schema_is_reported(place: Path, change, said):
    value = json.loads((place / "report.json").read_bytes())
    change(value)
    (place / "report.json").write_bytes(canonical_bytes(value))
    audits.restate(place)
    found = inspect(place)
    if said:
        assert said in bad(found)[SCHEMA]
        assert seen(found, DRAWING) == "not compared: report.json cannot be drawn"
    else:
        assert DRAWING in bad(found)


def test_json_in_other_bytes_is_reported_however_it_is_named(place: Path):
    value = json.loads((place / "report.json").read_bytes())
    (place / "report.json").write_text(json.dumps(value, indent=1))
    audits.restate(place)
    assert "canonical" in bad(inspect(place))["report.json"]


def test_an_answer_filed_under_another_question_is_reported(place: Path):
    log = place / "responses" / "responses.jsonl"
    first, *others = log.read_text().splitlines(keepends=True)
    log.write_text(first + "".join(others).replace('"temperature": 1.0', '"temperature": 0.0'))
    audits.restate(place)
    said = "line 2 is not filed under the question it answers"
    assert bad(inspect(place)) == {"responses/responses.jsonl: questions": said}


# Garbage.

GARBAGE = {
    "empty": b"",
    "no UTF-8": b"\xff\xfe\x00",
    "no JSON": b"{",
    "null": b"null",
    "deep": b"[" * 200_000,
    "a long number": b"9" * 200_000,
    "a large number": b"1e999",
    "a list": b"[]",
    "texts": b'{"schema":"spiritsafe.report/1"}',
    "halves": rb'{"a":"\ud800"}',
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("restated", [False, True], ids=["named as it was", "named as it is"])
def test_garbage_in_place_of_any_file_is_a_row(originals, tmp_path, data, restated):
    signed = originals["signed"]
    for name in files(signed):
        if restated and name.startswith("statement."):
            continue
        copy = Path(shutil.copytree(signed, tmp_path / "copy"))
        (copy / name).write_bytes(data)
        if restated:
            audits.restate(copy)
        assert not inspect(copy, originals["key"]).ok
        shutil.rmtree(copy)


def test_figures_that_no_audit_comes_to_are_a_row(place: Path):
    whole = json.loads((place / "report.json").read_bytes())
    for figure in (1e308, -1e308, 5e-324, 0):
        value = json.loads(json.dumps(whole))
        for finding in value["findings"]:
            finding.update(dict.fromkeys(("score", "low", "log10_lr"), figure))
            for probe in finding["probes"]:
                for member in probe["population"]:
                    member["score"] = figure
                for row in probe["prompts"]:
                    row.update({"suspect": figure, "others": -figure})
        (place / "report.json").write_bytes(canonical_bytes(value))
        audits.restate(place)
        assert DRAWING in bad(inspect(place))


def test_links_pipes_and_directories_in_place_of_files_are_rows(originals, tmp_path):
    for name in files(originals["audit"]):
        copy = Path(shutil.copytree(originals["audit"], tmp_path / "copy"))
        (copy / name).unlink()
        (copy / name).symlink_to(originals["audit"] / name)
        told = bad(inspect(copy))
        assert name in told, name
        assert told.get(SCHEMA, "is a link") == "is a link"
        (copy / name).unlink()
        os.mkfifo(copy / name)
        assert name in bad(inspect(copy)), name
        (copy / name).unlink()
        (copy / name).mkdir()
        assert name in bad(inspect(copy)), name
        shutil.rmtree(copy)


# One file.


def test_a_file_is_looked_at_with_what_lies_beside_it(originals, place: Path):
    found = inspect(place / "report.json")
    assert found.ok
    own = ["statement.json", "report.json", SCHEMA, DRAWING, "statement.sig.json"]
    assert [row.what for row in found.rows] == own
    (place / "responses" / "responses.jsonl").write_text("changed")
    assert inspect(place / "report.html").ok
    assert not inspect(place / "statement.json").ok
    assert inspect(originals["signed"] / "statement.sig.json", originals["key"]).ok


def test_a_changed_file_is_told_and_another_is_not_blamed(place: Path):
    (place / "report.html").write_text("another")
    assert set(bad(inspect(place / "report.html"))) == {"report.html", DRAWING}
    (place / "audit.yaml").write_text("another")
    assert set(bad(inspect(place / "audit.yaml"))) == {"audit.yaml"}


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_file_that_came_alone_cannot_be_called_intact(place: Path, tmp_path, name):
    alone = tmp_path / "mail" / name
    alone.parent.mkdir()
    shutil.copy(place / name, alone)
    found = inspect(alone)
    assert not found.ok and bad(found)["statement.json"] == GONE
    assert seen(found, name) == "not compared: nothing beside it names it"


def test_a_run_is_left_to_the_other_command(tmp_path: Path, place: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    shutil.copy(place / "statement.json", tmp_path / "run")
    with pytest.raises(InputError, match="`distill verify` looks at runs"):
        inspect(tmp_path / "run")
    (place / "manifest.json").write_text("{}")
    assert bad(inspect(place)) == {"manifest.json": UNNAMED}


def test_what_is_no_record_is_refused(tmp_path: Path, place: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path / "empty", tmp_path / "notes.txt", tmp_path / "none", place / "none"):
        with pytest.raises(InputError, match="no audit, no validation") as error:
            inspect(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        inspect(tmp_path / ("x" * 5000))


# Signing.


def test_what_is_not_intact_is_not_signed(place: Path, tmp_path: Path):
    private, _, _ = keygen(tmp_path / "key")
    (place / "report.html").write_text("another page")
    with pytest.raises(InputError, match=r"is not signed: report\.html was changed"):
        sign(place, private, inspect)
    assert not (place / "statement.sig.json").exists()


def test_a_signature_can_be_replaced_even_a_broken_one(originals, tmp_path: Path):
    copy = Path(shutil.copytree(originals["signed"], tmp_path / "signed"))
    (copy / "statement.sig.json").write_bytes(b"{}")
    private, public, _ = keygen(tmp_path / "key")
    sign(copy, private, inspect)
    assert inspect(copy, public).ok
    assert not inspect(copy, originals["key"]).ok


def test_verify_and_sign_need_no_torch():
    code = "import sys, audit.verify, audit.signing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
