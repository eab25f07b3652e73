"""report.json: read back as written, described by its schema, and closed to other fields."""

import copy
import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from audit.attest import canonical_bytes, parse
from audit.evidence import Verdict, from_json, json_schema, to_json
from tests.fakes import reports


def on_disk(report) -> dict:
    """Return the report as another program reads it from its file."""
    return json.loads(json.dumps(to_json(report), ensure_ascii=False))


def test_a_report_is_read_back_as_it_was_written():
    report = reports.report()
    assert from_json(on_disk(report)) == report
    assert from_json(to_json(report)) == report


def test_every_verdict_survives():
    for verdict in Verdict:
        report = reports.report(findings=(reports.finding(verdict),))
        again = from_json(on_disk(report)).findings[0]
        assert again.verdict is verdict
        assert on_disk(report)["findings"][0]["verdict"] == verdict.value


def test_the_shipped_schema_is_the_one_that_the_classes_describe():
    text = files("audit").joinpath("report.schema.json").read_text(encoding="utf-8")
    assert text == json.dumps(json_schema(), indent=2) + "\n"
    assert json_schema()["$id"].split(":")[-2:] == reports.report().schema.split(".")[1].split("/")


def test_the_shipped_schema_is_a_schema_and_a_report_in_its_canonical_bytes_fits_it():
    schema = json.loads(files("audit").joinpath("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    filed = parse(canonical_bytes(to_json(reports.report())))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(filed)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("findings"),
        lambda data: data.update(extra=1),
        lambda data: data["findings"][0].update(confidence=0.9),
        lambda data: data["findings"][0].update(verdict="GUILTY"),
        lambda data: data["findings"][0].update(p_value="small"),
        lambda data: data["findings"][0].pop("low"),
        lambda data: data["findings"][0]["probes"][0].update(needs="luck"),
        lambda data: data["findings"][0]["probes"][0]["population"][0].update(role="friend"),
        lambda data: data["suspect"].update(kind="rumour"),
        lambda data: data.update(schema="spiritsafe.report/2"),
        lambda data: data["propositions"].append("a third"),
    ],
)
def test_schema_and_reader_refuse_the_same(spoil):
    data = on_disk(reports.report())
    spoiled = copy.deepcopy(data)
    spoil(spoiled)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoiled, json_schema())
    with pytest.raises(ValidationError):
        from_json(spoiled)


def test_an_absent_number_is_null_and_not_zero():
    data = on_disk(reports.report(findings=(reports.finding(Verdict.INSUFFICIENT),)))
    found = data["findings"][0]
    names = ("score", "low", "high", "rank", "p_value", "p_adjusted", "log10_lr", "log10_lr_low")
    assert {found[name] for name in names} == {None}


def test_evidence_cannot_be_changed_in_place():
    report = reports.report()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.tool = "another"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.findings[0].verdict = Verdict.SUPPORTED


def test_no_path_of_this_machine_is_in_the_schema():
    assert str(Path.cwd()) not in json.dumps(json_schema())
