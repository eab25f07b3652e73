"""A statement's claims: one a finding, in neutral words, that in-toto's own parser takes."""

import dataclasses
import json

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.scai.v0.scai import AttributeReport
from in_toto_attestation.predicates.scai.v0.scai_pb2 import AttributeReport as Parsed
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as ParsedStatement

from audit.attest import canonical_bytes, digest
from audit.claims import SCAI, of_report, of_validation
from audit.evidence import Suspect, to_json
from audit.statement import OWN, resource, statement
from tests.fakes import reports, validations


def require_taken(predicate: dict) -> None:
    """Have in-toto's parser read it; consumers of SCAI ignore fields they do not know."""
    made = statement([resource("report.json", "0" * 64)], SCAI, predicate)
    parsed = ParseDict(json.loads(canonical_bytes(made)), ParsedStatement())
    Statement.copy_from_pb(parsed).validate()
    claims = ParseDict(made["predicate"], Parsed(), ignore_unknown_fields=True)
    report = AttributeReport([])
    report.pb.CopyFrom(claims)
    report.validate()
    assert set(made["predicate"]) == {"attributes", "producer", OWN}


def test_in_toto_takes_the_claims_of_an_audit_and_of_a_validation():
    require_taken(of_report(reports.report()))
    require_taken(of_validation(validations.validation()))


def test_every_finding_on_the_suspect_is_one_attribute_with_its_figures():
    report = reports.report()
    claims = of_report(report)
    assert len(claims["attributes"]) == len(report.findings)
    for claim, finding in zip(claims["attributes"], report.findings, strict=True):
        said = f"evidence of derivation from the outputs of {finding.teacher}: {finding.verdict}"
        assert claim["attribute"] == said
        assert claim["evidence"] == resource("report.json", digest(to_json(report)))
        given = claim["conditions"]
        assert given["settings"] == report.settings
        for name in ("p_value", "p_adjusted", "log10_lr"):
            assert given.get(name) == getattr(finding, name)
            assert (name in given) == (getattr(finding, name) is not None)
    assert claims["producer"] == {"name": report.tool}


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("responses file", "sha256"), ("model directory", "spiritsafe_tree_sha256")],
)
def test_only_a_file_is_pinned_by_a_plain_sha256(kind, algorithm):
    suspect = Suspect(name="s", kind=kind, sha256="1" * 64)
    claims = of_report(reports.report(suspect=suspect))
    assert claims["attributes"][0]["target"] == {"name": "s", "digest": {algorithm: "1" * 64}}


def test_a_name_that_no_file_can_hold_is_claimed_as_the_report_has_it():
    finding = dataclasses.replace(reports.finding(), teacher="T\ud800")
    claims = of_report(reports.report(findings=(finding,)))
    canonical_bytes(claims)
    assert "T\u27e8U+D800\u27e9" in claims["attributes"][0]["attribute"]


def test_a_validation_claims_counts_of_documented_pairs():
    found = validations.validation()
    right, wrong = of_validation(found)["attributes"]
    pairs, verdicts = found.metrics["pairs"], found.metrics["verdicts"]
    count = verdicts["negative"]["SUPPORTED"]
    assert wrong["attribute"] == (
        f"documented negative pairs called SUPPORTED: {count} of {pairs['negative']}"
    )
    assert right["attribute"].endswith(f" of {pairs['positive']}")
    assert wrong["evidence"] == resource("metrics.json", digest(found.metrics))
    assert wrong["conditions"] == found.metrics["rules"]


def test_no_claim_blames():
    said = canonical_bytes(of_report(reports.report())).decode().lower()
    for word in ("stole", "copied", "guilt", "cheat", "illegal", "infring"):
        assert word not in said
