"""From probes to findings: the correction, the bound on the ratio, and what lifts nothing."""

import itertools
import math
from dataclasses import replace

import pytest

from audit.evidence import Member, ProbeResult, Verdict
from audit.population import holm
from audit.probes import contrast, logprob_shift
from audit.verdict import RELATIONS, Question, conclude


def probe(
    name: str,
    verdict: Verdict,
    p_value: float | None,
    *,
    controls: tuple[float, ...] = (0.1, 0.2, 0.3),
    score: float | None = 1.0,
    low: float | None = 0.8,
) -> ProbeResult:
    members = [Member(name=f"control-{i}", role="control", score=s) for i, s in enumerate(controls)]
    return ProbeResult(
        probe=name,
        needs="weights" if name == logprob_shift.NAME else "text",
        verdict=verdict,
        reason=f"{name} said so",
        null="",
        unit="",
        n_prompts=40,
        score=score,
        low=low,
        high=1.2,
        p_value=p_value,
        rank=1,
        rank_of=1 + len(controls),
        population=(Member(name="suspect", role="suspect", score=1.2), *members),
    )


def weights(verdict: Verdict, p_value: float | None, **changes) -> ProbeResult:
    return probe(logprob_shift.NAME, verdict, p_value, **changes)


def text(verdict: Verdict, p_value: float | None, **changes) -> ProbeResult:
    return probe(contrast.NAME, verdict, p_value, **changes)


def question(*probes: ProbeResult, suspect: str = "suspect", teacher: str = "t") -> Question:
    return Question(suspect=suspect, teacher=teacher, probes=probes)


def test_a_single_supported_question_stays_supported():
    (found,) = conclude([question(weights(Verdict.SUPPORTED, 0.01))], alpha=0.05)
    assert found.verdict is Verdict.SUPPORTED
    assert found.p_value == found.p_adjusted == 0.01
    assert (found.score, found.low, found.high, found.rank) == (1.0, 0.8, 1.2, 1)
    assert found.group == found.teacher == "t"


def test_all_questions_of_an_audit_are_one_family_in_order():
    p_values = [0.01, 0.6, 0.012, 0.3]
    verdicts = [Verdict.SUPPORTED, Verdict.NOT_SUPPORTED, Verdict.SUPPORTED, Verdict.NOT_SUPPORTED]
    asked = [
        question(weights(verdict, p), suspect=f"m{i}")
        for i, (verdict, p) in enumerate(zip(verdicts, p_values, strict=True))
    ]
    found = conclude(asked, alpha=0.05)
    assert [f.suspect for f in found] == ["m0", "m1", "m2", "m3"]
    assert [f.p_adjusted for f in found] == holm(p_values)
    assert [f.verdict for f in found] == verdicts


def test_the_more_is_asked_the_more_an_answer_must_show():
    supported = question(weights(Verdict.SUPPORTED, 0.02))
    control = question(weights(Verdict.NOT_SUPPORTED, 0.5), suspect="control-1")
    (alone,) = conclude([supported], alpha=0.05)
    among = conclude([supported, control, control], alpha=0.05)[0]
    assert alone.verdict is Verdict.SUPPORTED
    assert among.verdict is Verdict.INCONCLUSIVE
    assert among.p_adjusted == pytest.approx(0.06)
    assert "after correction for the 3 questions" in among.reason
    assert among.relation == "not decided"


def test_questions_without_an_answer_cost_nothing():
    silent = question(text(Verdict.INSUFFICIENT, 0.25))
    found = conclude([question(weights(Verdict.SUPPORTED, 0.02)), *[silent] * 9], alpha=0.05)
    assert found[0].verdict is Verdict.SUPPORTED
    assert found[0].p_adjusted == 0.02
    assert {(f.p_value, f.p_adjusted, f.log10_lr) for f in found[1:]} == {(None, None, None)}


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.SUPPORTED])
@pytest.mark.parametrize("second", [Verdict.SUPPORTED, Verdict.INCONCLUSIVE])
def test_a_weaker_probe_cannot_lift_a_finding(verdict, second):
    strong, weak = weights(verdict, 0.5), text(second, 0.0001)
    for probes in ((strong, weak), (weak, strong)):
        (found,) = conclude([question(*probes)], alpha=0.05)
        assert found.verdict is verdict
        assert found.reason == strong.reason
        assert found.probes == probes


def test_a_weaker_probe_cannot_lower_a_finding_either():
    asked = question(weights(Verdict.SUPPORTED, 0.01), text(Verdict.NOT_SUPPORTED, 0.9))
    assert conclude([asked], alpha=0.05)[0].verdict is Verdict.SUPPORTED


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.2])
def test_nothing_is_supported_above_alpha(alpha):
    asked = [question(weights(Verdict.SUPPORTED, p)) for p in (0.0001, 0.004, 0.03, 0.15)]
    for found in conclude(asked, alpha=alpha):
        assert (found.verdict is Verdict.SUPPORTED) == (found.p_adjusted <= alpha)


def test_no_verdict_is_raised_by_the_correction():
    for verdict, p in itertools.product(Verdict, (1e-9, 0.5)):
        (found,) = conclude([question(weights(verdict, p))], alpha=0.05)
        if verdict is not Verdict.SUPPORTED:
            assert found.verdict is verdict


@pytest.mark.parametrize("controls", [2, 3, 7])
def test_the_likelihood_ratio_is_bounded_by_the_models_compared(controls):
    scores = tuple(i / 10 for i in range(controls))
    for p in (1e-30, 1e-4, 0.04, 0.3, 1.0):
        asked = question(weights(Verdict.SUPPORTED, p, controls=scores))
        (found,) = conclude([asked], alpha=0.05)
        assert 0 <= found.log10_lr <= math.log10(controls + 1)
        assert 0 <= found.log10_lr_low <= found.log10_lr
    (clear,) = conclude([question(weights(Verdict.SUPPORTED, 1e-30, controls=scores))], alpha=0.05)
    assert clear.log10_lr == math.log10(controls + 1)


def test_the_ratio_at_the_low_end_falls_with_the_interval():
    ratios = []
    for low in (5.0, 0.5, 0.1, -1.0):
        asked = question(weights(Verdict.SUPPORTED, 0.001, low=low))
        ratios.append(conclude([asked], alpha=0.05)[0].log10_lr_low)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == 0.0


def test_one_other_model_gives_no_ratio():
    asked = question(weights(Verdict.INCONCLUSIVE, 0.001, controls=(0.1,)))
    (found,) = conclude([asked], alpha=0.05)
    assert (found.log10_lr, found.log10_lr_low) == (None, None)


def test_without_an_interval_or_a_spread_the_low_end_is_absent():
    (open_ended,) = conclude([question(weights(Verdict.SUPPORTED, 0.001, low=None))], alpha=0.05)
    assert open_ended.log10_lr is not None and open_ended.log10_lr_low is None
    equal = question(weights(Verdict.SUPPORTED, 0.001, controls=(0.1, 0.1, 0.1)))
    (flat,) = conclude([equal], alpha=0.05)
    assert flat.log10_lr_low is None


def test_each_verdict_has_its_relation_and_only_support_names_one():
    asked = [question(weights(verdict, 0.001)) for verdict in Verdict]
    found = {f.verdict: f.relation for f in conclude(asked, alpha=0.05)}
    assert found == RELATIONS
    assert "trained on its outputs" in found[Verdict.SUPPORTED]
    assert "not separated" in found[Verdict.SUPPORTED]
    assert found[Verdict.NOT_SUPPORTED] == "no relation found"
    assert found[Verdict.INCONCLUSIVE] == found[Verdict.INSUFFICIENT] == "not decided"


def test_no_question_gives_no_finding():
    assert conclude([], alpha=0.05) == []


def test_a_supported_probe_without_a_p_value_is_held_back():
    asked = question(replace(weights(Verdict.SUPPORTED, None)))
    assert conclude([asked], alpha=0.05)[0].verdict is Verdict.INCONCLUSIVE
