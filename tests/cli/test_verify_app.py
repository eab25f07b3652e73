"""`audit report`, `sign`, `keygen` and `verify` as a user meets them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fakes import audits
from tests.fakes.commands import call, modules_after, refusal


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audits.answered(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def place(original, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "audit"))


def test_an_intact_audit_exits_with_0_and_says_that_it_is_unsigned(place):
    done = call("audit", "verify", place)
    assert done.exit_code == 0
    *rows, last = done.stdout.splitlines()
    assert all(row.startswith(("ok  ", "-  ")) for row in rows)
    assert last == f"intact: {len(rows) - 1}; statement.sig.json unsigned"


def test_a_changed_audit_exits_with_1_and_names_the_file(place):
    (place / "report.html").write_text("another page")
    done = call("audit", "verify", place)
    assert done.exit_code == 1
    assert "CHANGED  report.html: was changed: its sha256 is " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT INTACT: report.html")


def test_json_has_the_same_rows(place):
    shown = json.loads(call("audit", "verify", place, "--json").stdout)
    assert (shown["path"], shown["ok"]) == (str(place), True)
    assert {"what": "statement.sig.json", "ok": None} in [
        {key: row[key] for key in ("what", "ok")} for row in shown["checks"]
    ]
    (place / "audit.yaml").unlink()
    done = call("audit", "verify", place, "--json")
    assert done.exit_code == 1 and not json.loads(done.stdout)["ok"]


def test_what_is_no_record_or_no_key_exits_with_2(place, tmp_path):
    assert "no audit, no validation" in refusal("audit", "verify", tmp_path, code=2)
    assert "name the file of a key" in refusal(
        "audit", "verify", place, "--key", tmp_path / "none.pem", code=2
    )


def test_a_hostile_name_neither_acts_nor_adds_a_line(place):
    name = "a\x1b[2J\u202e\nok       report.json: fine"
    (place / name).write_text("x")
    (place / os.fsdecode(b"\xff")).write_text("x")
    done = call("audit", "verify", place)
    assert done.exit_code == 1
    assert not {"\x1b", "\u202e", "\x00"} & set(done.stdout)
    assert len([row for row in done.stdout.splitlines() if "fine" in row]) == 2  # row and summary
    assert "CHANGED  \u27e8U+DCFF\u27e9: is not named" in done.stdout


def test_a_pair_of_keys_signs_and_checks(place, tmp_path):
    made = call("audit", "keygen", tmp_path / "reviewer")
    assert made.exit_code == 0
    private, public = tmp_path / "reviewer.pem", tmp_path / "reviewer.pub.pem"
    keyid = made.stdout.splitlines()[-1].split()[-1]
    assert [line.split()[-1] for line in made.stdout.splitlines()] == [
        *map(str, (private, public)), keyid,
    ]  # fmt: skip
    assert "never overwritten" in refusal("audit", "keygen", tmp_path / "reviewer", code=2)
    done = call("audit", "sign", place, "--key", private)
    assert done.stdout == f"{place / 'statement.sig.json'}: signed by key {keyid}\n"
    done = call("audit", "verify", place, "--key", public)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "intact: 7")
    done = call("audit", "verify", place)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (
        0, "intact: 6; statement.sig.json not checked",
    )  # fmt: skip


def test_what_was_changed_is_not_signed(place, tmp_path):
    call("audit", "keygen", tmp_path / "key")
    (place / "report.html").write_text("x")
    said = refusal("audit", "sign", place, "--key", tmp_path / "key.pem", code=2)
    assert "is not signed: report.html was changed" in said


def test_a_page_is_drawn_again_beside_the_report_elsewhere_or_on_stdout(place, tmp_path):
    page = (place / "report.html").read_bytes()
    (place / "report.html").unlink()
    done = call("audit", "report", place / "report.json")
    assert done.stdout == f"page: {place / 'report.html'}\n"
    assert (place / "report.html").read_bytes() == page
    assert call("audit", "verify", place).exit_code == 0
    call("audit", "report", place / "report.json", "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == page
    assert call("audit", "report", place / "report.json", "--out", "-").stdout_bytes == page


def test_a_file_that_is_no_report_is_one_sentence(place, tmp_path):
    for file in (place / "statement.json", place / "audit.yaml", place, tmp_path / "none"):
        assert "give a report.json" in refusal("audit", "report", file, code=2)
    assert not (place / "statement.html").exists()


def test_none_of_this_imports_torch(place, tmp_path):
    calls = [
        ["verify", str(place)],
        ["report", str(place / "report.json")],
        ["keygen", str(tmp_path / "k")],
        ["sign", str(place), "--key", str(tmp_path / "k.pem")],
        ["verify", str(place), "--key", str(tmp_path / "k.pub.pem")],
    ]
    assert "torch" not in modules_after("audit", calls)
    assert (place / "statement.sig.json").is_file()
