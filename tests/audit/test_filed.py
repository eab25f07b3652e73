"""A report that is there already is drawn again to the byte, or refused in one sentence."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.attest import canonical_bytes, digest
from audit.errors import InputError
from audit.evidence import settled, to_json
from audit.filed import drawn, finished, page, read
from audit.report.render import render
from audit.report.reveal import reveal, reveal_halves, reveal_line
from tests.fakes import audits, reports


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audits.answered(tmp_path_factory.mktemp("filed"))


def written(report, path: Path) -> Path:
    path.write_bytes(canonical_bytes(to_json(report)))
    return path


def test_a_finished_audit_is_drawn_again_byte_for_byte(audit):
    assert drawn(audit / "report.json").encode() == (audit / "report.html").read_bytes()
    assert digest(json.loads((audit / "report.json").read_bytes())) in drawn(audit / "report.json")


text = st.text(st.characters(codec=None), max_size=40)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(name=text, number=st.sampled_from([0.0, 1.0, -0.0, 1e21, 2.0**60, 0.1]), answer=text)
def test_whatever_a_report_says_its_page_is_drawn_again_from_its_file(
    tmp_path, name, number, answer
):
    exhibit = dataclasses.replace(reports.probe().exhibits[0], answers={name: answer, "b": "c"})
    probe = dataclasses.replace(reports.probe(prompts=4, references=3), exhibits=(exhibit,))
    finding = dataclasses.replace(reports.finding(), teacher=name, probes=(probe,), score=number)
    made = reports.report(findings=(finding,))
    report = settled(dataclasses.replace(made, settings={"temperature": number, name: answer}))
    path = written(report, tmp_path / "report.json")
    assert read(path) == report == settled(report)
    assert drawn(path) == render(report) == page(report)


def test_a_report_can_be_as_it_was_before_it_was_settled_but_for_halves_of_pairs():
    report = reports.report()
    assert settled(report) == report
    halved = settled(dataclasses.replace(report, command="a\ud800b\udfff"))
    assert halved.command == "a\u27e8U+D800\u27e9b\u27e8U+DFFF\u27e9"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 99_999,
        b"9" * 9_999,
        b'{"schema": "x"}',
        b"1e999",
    ],
)
def test_what_is_no_report_is_refused_in_one_sentence(tmp_path, data):
    path = tmp_path / "report.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"give a report\.json as `audit probe` wrote it") as error:
        drawn(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("depth", [50, 150, 300, 500, 700, 900, 980])
def test_a_report_of_any_depth_is_drawn_or_refused(tmp_path, depth):
    deep: list[object] = []
    for _ in range(depth):
        deep = [deep]
    value = to_json(reports.report()) | {"settings": {"deep": 0}}
    data = canonical_bytes(value).replace(b'"deep":0', b'"deep":' + b"[" * depth + b"]" * depth)
    (tmp_path / "report.json").write_bytes(data)
    try:
        assert drawn(tmp_path / "report.json").lower().startswith("<!doctype html>")
    except InputError as error:
        assert "\n" not in str(error)


def test_a_report_that_no_page_can_show_is_refused_in_one_sentence(tmp_path):
    report = dataclasses.replace(reports.report(), command="x" * 2_100_000)
    with pytest.raises(InputError, match="would exceed 2000000 bytes; give a report"):
        drawn(written(report, tmp_path / "report.json"))


def test_no_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"give a report\.json"):
            drawn(path)


def test_a_report_in_other_bytes_or_of_coerced_types_is_refused(tmp_path):
    value = to_json(reports.report())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(value, indent=1))
    with pytest.raises(InputError, match="canonical"):
        read(path)
    value["findings"][0]["rank"] = "1"
    path.write_bytes(canonical_bytes(value))
    with pytest.raises(InputError, match="of another type"):
        read(path)


@pytest.mark.parametrize("name", ["report.json", "report.html", "statement.json", "audit.yaml"])
def test_an_audit_is_finished_only_while_all_it_wrote_is_as_it_was(tmp_path, name):
    place = audits.answered(tmp_path)
    assert finished(place) == read(place / "report.json")
    (place / "notes.txt").write_text("added")
    assert finished(place) is not None
    whole = (place / name).read_bytes()
    for data in (whole[:-1], whole + b"\n", b""):
        (place / name).write_bytes(data)
        assert finished(place) is None
    (place / name).unlink()
    assert finished(place) is None


def test_only_halves_of_pairs_are_changed_in_a_record():
    odd = "\u202e\x00\u200b\n\t</script> \U0001f600"
    value = {"\udc80": [odd, ("\ud83d", 1, None, 0.5, True)]}
    shown = {"\u27e8U+DC80\u27e9": [odd, ["\u27e8U+D83D\u27e9", 1, None, 0.5, True]]}
    assert reveal_halves(value) == shown


def test_a_line_stays_one_line():
    assert (
        reveal_line("a\nok\tb\x1b[2J")
        == "a\u27e8U+000A\u27e9ok\u27e8U+0009\u27e9b\u27e8U+001B\u27e9[2J"
    )
    assert reveal("a\n\tb") == "a\n\tb"
