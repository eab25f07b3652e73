"""From probes to findings: correction for many tests, likelihood ratio, the four outcomes.

A finding rests on the strongest probe that ran: weights before text. Weaker probes stand beside it
and can never lift it. All (model, teacher) pairs of an audit, controls included, form one family
for Holm's correction, so the more that is asked, the more each answer must show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from audit.evidence import Finding, ProbeResult, Verdict
from audit.population import beyond_runs, holm, log10_likelihood_ratio
from audit.probes import contrast, logprob_shift

# Strongest first: a probe of weights against matched controls, then text against a population.
LADDER = (logprob_shift.NAME, contrast.NAME)

RELATIONS = {
    Verdict.SUPPORTED: "trained on its outputs; on answers or on probabilities is not separated",
    Verdict.NOT_SUPPORTED: "no relation found",
    Verdict.INCONCLUSIVE: "not decided",
    Verdict.INSUFFICIENT: "not decided",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One model, one teacher, and what the probes said."""

    suspect: str
    teacher: str
    probes: tuple[ProbeResult, ...]

    def deciding(self) -> ProbeResult:
        """Return the strongest probe that ran."""
        return min(self.probes, key=lambda probe: LADDER.index(probe.probe))


def conclude(questions: Sequence[Question], *, alpha: float) -> list[Finding]:
    """Return one finding a question, in order, corrected for their number."""
    deciding = [question.deciding() for question in questions]
    tested = [i for i, probe in enumerate(deciding) if _tests(probe)]
    adjusted = holm([deciding[i].p_value or 0.0 for i in tested])
    by_index = dict(zip(tested, adjusted, strict=True))
    return [
        _finding(question, probe, by_index.get(i), len(tested), alpha)
        for i, (question, probe) in enumerate(zip(questions, deciding, strict=True))
    ]


def _tests(probe: ProbeResult) -> bool:
    return probe.verdict is not Verdict.INSUFFICIENT and probe.p_value is not None


def _finding(
    question: Question, probe: ProbeResult, adjusted: float | None, tests: int, alpha: float
) -> Finding:
    verdict, reason = probe.verdict, probe.reason
    if verdict is Verdict.SUPPORTED and (adjusted is None or adjusted > alpha):
        verdict = Verdict.INCONCLUSIVE
        reason = f"it does not hold after correction for the {tests} questions of this audit"
    ratio, ratio_low = _likelihood_ratio(probe) if adjusted is not None else (None, None)
    return Finding(
        suspect=question.suspect,
        teacher=question.teacher,
        group=question.teacher,
        verdict=verdict,
        reason=reason,
        relation=RELATIONS[verdict],
        score=probe.score,
        low=probe.low,
        high=probe.high,
        rank=probe.rank,
        p_value=probe.p_value if adjusted is not None else None,
        p_adjusted=adjusted,
        log10_lr=ratio,
        log10_lr_low=ratio_low,
        probes=question.probes,
    )


def _likelihood_ratio(probe: ProbeResult) -> tuple[float | None, float | None]:
    """Return log10 LR, and the same at the low end of the score's interval.

    Bounded by how many models the suspect was compared with: a few runs cannot show rare events.
    """
    others = [member.score for member in probe.population if member.role != "suspect"]
    if probe.p_value is None or len(others) < 2:
        return None, None
    ratio = log10_likelihood_ratio(probe.p_value, len(others))
    if probe.low is None or probe.probe != logprob_shift.NAME:
        return ratio, None  # a rank has no low end to compute with
    at_low = beyond_runs(sum(others) / len(others) + probe.low, others)
    if at_low is None:
        return ratio, None
    return ratio, min(ratio, log10_likelihood_ratio(max(at_low, probe.p_value), len(others)))
