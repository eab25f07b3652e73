"""What a finding owes to single choices is what the report holds, and nothing is made up."""

import dataclasses

from audit.evidence import Verdict
from audit.report.sensitivity import CORRECTION, DEALT, LOW_END, NEAREST, variations
from tests.fakes import reports


def test_other_readings_dealings_controls_and_corrections_are_listed():
    main = reports.probe(name="contrast")
    check = dataclasses.replace(main, probe="contrast, long spans", score=1.5, p_value=0.3)
    dealt = dataclasses.replace(main, probe="permuted teachers", score=None, p_value=0.001)
    finding = reports.finding(probes=(main, check, dealt, reports.insufficient()))
    rows = {row.what: row for row in variations(finding, main)}
    assert list(rows) == ["long spans", DEALT, NEAREST, CORRECTION, LOW_END]
    assert (rows["long spans"].score, rows["long spans"].p_value) == (1.5, 0.3)
    nearest = min(main.contrasts, key=lambda one: one.mean)
    assert (rows[NEAREST].name, rows[NEAREST].score) == (nearest.against, nearest.mean)
    assert rows[CORRECTION].p_value == finding.p_adjusted
    assert (rows[LOW_END].score, rows[LOW_END].log10_lr) == (finding.low, finding.log10_lr_low)


def test_a_report_that_holds_nothing_has_no_rows():
    finding = reports.finding(Verdict.INSUFFICIENT)
    assert variations(finding, None) == []
    assert variations(finding, finding.probes[0]) == []
