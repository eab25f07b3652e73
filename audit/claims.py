"""What an audit or a validation claims, as the predicate of its statement: SCAI v0.3.

An attribute is a finding in neutral words; its conditions are the settings and the figures it came
with, its evidence is the file that holds all of them. Specification: in-toto Attestation Framework,
spec/predicates/scai.md (Melara and Kinsy, arXiv 2210.05813).
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from audit.attest import digest
from audit.evidence import Finding, Report, to_json
from audit.report.reveal import reveal_halves
from audit.statement import TREE, resource
from audit.validation.judged import Validation

SCAI = "https://in-toto.io/attestation/scai/v0.3"
_FIGURES = ("relation", "score", "rank", "p_value", "p_adjusted", "log10_lr", "log10_lr_low")


def tool() -> str:
    """Return the name and the version of what makes records here."""
    return f"spiritsafe {importlib.metadata.version('spiritsafe')}"


def of_report(report: Report) -> dict[str, Any]:
    """Return the predicate about `report`: an attribute a finding on the suspect."""
    evidence = resource("report.json", digest(to_json(report)))
    suspect = report.suspect
    of = "sha256" if suspect.kind == "responses file" else TREE
    found = {
        "attributes": [
            {
                "attribute": f"evidence of derivation from the outputs of {finding.teacher}: "
                f"{finding.verdict}",
                "target": resource(suspect.name, suspect.sha256, of=of),
                "conditions": _conditions(finding, report.settings),
                "evidence": evidence,
            }
            for finding in report.findings
        ],
        "producer": {"name": report.tool},
    }
    said: dict[str, Any] = reveal_halves(found)
    return said


def _conditions(finding: Finding, settings: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: getattr(finding, name) for name in _FIGURES}
    return {
        **{name: value for name, value in figures.items() if value is not None},
        "probes": {probe.probe: str(probe.verdict) for probe in finding.probes},
        "settings": dict(settings),
    }


def of_validation(found: Validation) -> dict[str, Any]:
    """Return the predicate about a validation: an attribute a kind of documented pair."""
    bank, verdicts = found.metrics["bank"], found.metrics["verdicts"]
    return {
        "attributes": [
            {
                "attribute": f"documented {truth} pairs called SUPPORTED: "
                f"{verdicts[truth]['SUPPORTED']} of {sum(verdicts[truth].values())}",
                "target": resource(bank["name"], bank["sha256"], of=TREE),
                "conditions": found.metrics["rules"],
                "evidence": resource("metrics.json", digest(found.metrics)),
            }
            for truth in ("positive", "negative")
        ],
        "producer": {"name": tool()},
    }
