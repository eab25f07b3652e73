"""The ladder shows every kind of evidence, strongest first, run or not, and why not."""

import dataclasses

from audit.evidence import NotRun, Verdict
from audit.report.ladder import LADDER, NO_PROBE, ladder
from tests.fakes import reports


def found(*names: str, verdict: Verdict = Verdict.INCONCLUSIVE):
    probes = tuple(reports.probe(verdict, name=name) for name in names)
    return reports.finding(verdict, probes=probes)


def test_every_kind_of_evidence_has_a_rung_in_order_even_without_any_probe():
    rungs = ladder([], [])
    assert [rung.kind for rung in rungs] == list(LADDER)
    assert all(not rung.ran and len(rung.not_run) == 1 for rung in rungs)


def test_a_kind_without_a_probe_says_so_and_what_it_would_need():
    marks = ladder([], [])[0]
    assert marks.not_run[0].reason == NO_PROBE
    assert "cooperation" in marks.not_run[0].would_need


def test_what_ran_is_counted_by_verdict_over_teachers():
    rungs = ladder([found("contrast"), found("contrast", verdict=Verdict.SUPPORTED)], [])
    (ran,) = rungs[3].ran
    assert ran.probe == "contrast"
    assert ran.verdicts == ((Verdict.SUPPORTED, 1), (Verdict.INCONCLUSIVE, 1))
    assert rungs[3].not_run == ()


def test_checks_of_a_probe_are_no_evidence_of_their_own():
    rungs = ladder([found("contrast", "contrast, long spans", "attribution, 75 words")], [])
    assert [one.verdicts for one in rungs[3].ran] == [((Verdict.INCONCLUSIVE, 1),)]
    assert [one.probe for one in rungs[4].ran] == ["attribution"]


def test_a_probe_that_did_not_run_stands_on_its_rung_with_the_reason():
    why = NotRun(probe="logprob_shift", reason="answers alone", would_need="weights")
    rung = ladder([found("contrast")], [why])[2]
    assert (rung.ran, rung.not_run) == ((), (why,))


def test_probes_of_no_known_kind_are_shown_last_and_not_lost():
    strange = NotRun(probe="echo", reason="r", would_need="w")
    *_, last = ladder([found("new probe")], [strange])
    assert [one.probe for one in last.ran] == ["new probe"]
    assert last.not_run == (strange,)
    assert dataclasses.asdict(last.kind)["name"] == "Other probes"
