"""Did training move the suspect towards the teacher's text more than it moved models without it?

For a model M, its starting checkpoint M0, a held-out prompt x, the teacher's continuation t and the
true continuation h, the gain of M at x is

    [l_M(t|x) - l_M0(t|x)] - [l_M(h|x) - l_M0(h|x)],    l = mean log-probability a token, nats:

what M learnt of the teacher's way of continuing beyond what it learnt of the text itself. The
suspect's gain minus a control's, paired by prompt, is tested at each unit of replication (the
reference-based shift of arXiv 2607.09692, with matched controls in the reference's place). Runs
differ by their seeds, and two or three controls show that spread poorly, so a finding also asks
for a gain beyond a margin that was set beforehand.
Needs weights: the suspect's and controls' with their starting checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audit.evidence import Contrast, Exhibit, Member, ProbeResult, PromptRow, Replication, Verdict
from audit.population import Array, beyond_runs, bootstrap_interval, sign_flip
from audit.probes.showing import both_sides
from audit.responses import Response

NAME = "logprob_shift"
UNIT = "nats a token"

NULL = (
    "The suspect and a control gain equally: whatever makes the teacher's continuations likelier "
    "is in the text, the architecture and the number of steps, which the controls share."
)
CANNOT_SAY = (
    "It speaks of these runs: this suspect, these controls, this text. It is no statement about "
    "models in general.",
    "It does not tell the teacher from another model that writes alike, nor training on the "
    "teacher's probabilities from training on its answers.",
    "A suspect trained with smoothed targets or other regularisation than the controls may also "
    "gain on text that differs from the corpus.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """One model's gain at each prompt, `[n]`, in the order of the prompts."""

    name: str
    values: Array


def gain(
    teacher_text: Array, teacher_text_start: Array, true_text: Array, true_text_start: Array
) -> Array:
    """Return the gains of a model from four vectors of mean log-probabilities `[n]`."""
    return (teacher_text - teacher_text_start) - (true_text - true_text_start)


def examine(
    suspect: Gains,
    controls: Sequence[Gains],
    passages: Sequence[Response],
    teacher: Mapping[str, str],
    *,
    alpha: float,
    min_prompts: int,
    min_shift: float,
    seed: int,
) -> ProbeResult:
    """Return the probe's result for `suspect` against `controls`.

    Args:
        suspect: the model in question; it may itself be a control, tested against the others.
        controls: models known not to have seen the teacher; at least one.
        passages: prompts with their true continuations, in the order of the gains.
        teacher: the teacher's continuation by prompt id.
        alpha: level at which a unit counts as replicated.
        min_prompts: fewer give INSUFFICIENT.
        min_shift: margin, in nats a token, that the lower end of the gain over every control
            must exceed for SUPPORTED.
        seed: of random flips and bootstrap draws.
    """
    n = len(passages)
    if n < min_prompts:
        return _insufficient(n, f"only {n} prompts; at least {min_prompts} are needed", min_prompts)
    documents = [passage.document for passage in passages]
    contrasts = tuple(_contrast(suspect, control, passages, seed) for control in controls)
    levels = _levels(suspect, controls, contrasts, documents, seed)
    others = np.mean([control.values for control in controls], axis=0)
    advantage = suspect.values - others
    low, high = bootstrap_interval(advantage, documents, seed=seed)
    verdict, reason, need = _decide(levels, alpha, len(controls))
    if verdict is Verdict.SUPPORTED:
        least = min(contrast.low for contrast in contrasts)
        verdict, reason, need = _beyond_margin(least, min_shift, reason, need)
    population = _population(suspect, controls)
    return ProbeResult(
        probe=NAME,
        needs="weights",
        verdict=verdict,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=n,
        score=float(advantage.mean()),
        low=low,
        high=high,
        p_value=_combined(levels),
        rank=1 + sum(member.score >= population[0].score for member in population[1:]),
        rank_of=len(population),
        replication=levels,
        contrasts=contrasts,
        population=population,
        prompts=tuple(
            PromptRow(id=passage.id, suspect=float(mine), others=float(theirs))
            for passage, mine, theirs in zip(passages, suspect.values, others, strict=True)
        ),
        exhibits=_exhibits(passages, teacher, advantage),
        cannot_say=CANNOT_SAY,
        would_need=need,
    )


def _contrast(suspect: Gains, control: Gains, passages: Sequence[Response], seed: int) -> Contrast:
    """Return the suspect minus one control: the mean, its interval over documents, p by prompt."""
    difference = suspect.values - control.values
    documents = [passage.document for passage in passages]
    low, high = bootstrap_interval(difference, documents, seed=seed)
    return Contrast(
        against=control.name,
        mean=float(difference.mean()),
        low=low,
        high=high,
        p_value=sign_flip(difference, [passage.id for passage in passages], seed=seed),
    )


def _levels(
    suspect: Gains,
    controls: Sequence[Gains],
    contrasts: Sequence[Contrast],
    documents: Sequence[str],
    seed: int,
) -> tuple[Replication, ...]:
    """Test the gain at each unit; over prompts and documents the nearest control counts."""
    by_prompt = max(contrast.p_value for contrast in contrasts)
    by_document = max(
        sign_flip(suspect.values - control.values, documents, seed=seed) for control in controls
    )
    means = [float(control.values.mean()) for control in controls]
    by_run = beyond_runs(float(suspect.values.mean()), means)
    paired = "sign flips, paired by prompt; the largest p over controls"
    return (
        Replication(unit="prompts", n=len(documents), test=paired, p_value=by_prompt),
        Replication(
            unit="documents",
            n=len(set(documents)),
            test="sign flips of whole documents",
            p_value=by_document,
        ),
        Replication(
            unit="runs",
            n=len(controls) + 1,
            test="t against the spread between controls",
            p_value=by_run,
        ),
    )


def _population(suspect: Gains, controls: Sequence[Gains]) -> tuple[Member, ...]:
    """Return every model's mean gain, the suspect first."""
    return (
        Member(name=suspect.name, role="suspect", score=float(suspect.values.mean())),
        *(
            Member(name=control.name, role="control", score=float(control.values.mean()))
            for control in controls
        ),
    )


def _beyond_margin(
    least: float, min_shift: float, reason: str, need: str
) -> tuple[Verdict, str, str]:
    """Hold a finding back whose gain over some control may lie within the margin."""
    if least > min_shift:
        return Verdict.SUPPORTED, reason, need
    return (
        Verdict.INCONCLUSIVE,
        f"it gains more than every control, but perhaps only {least:.2f} {UNIT}, within the "
        f"margin of {min_shift:g} set for differences between runs",
        "a larger shift, or more prompts to bound it",
    )


def _combined(levels: Sequence[Replication]) -> float | None:
    """Return the largest p over the units, or None while one of them could not be tested.

    A finding claims an effect at every unit, so it is as strong as the weakest of its tests.
    """
    p_values = [level.p_value for level in levels if level.p_value is not None]
    return max(p_values) if len(p_values) == len(levels) else None


def _decide(levels: Sequence[Replication], alpha: float, controls: int) -> tuple[Verdict, str, str]:
    """Return verdict, reason and what would change it, before correction for many tests."""
    prompts, documents, runs = levels
    assert prompts.p_value is not None and documents.p_value is not None
    if prompts.p_value > alpha:
        return Verdict.NOT_SUPPORTED, "it gains no more than its controls do", "more prompts"
    if documents.p_value > alpha:
        return (
            Verdict.INCONCLUSIVE,
            "it gains more over prompts, but not consistently from document to document",
            "prompts from more documents",
        )
    if runs.p_value is None:
        return (
            Verdict.INCONCLUSIVE,
            f"it differs from its {controls} control, but the spread between runs is not known",
            "at least two controls",
        )
    if runs.p_value > alpha:
        return (
            Verdict.INCONCLUSIVE,
            "it gains more, but not beyond what controls differ by among themselves",
            "more controls",
        )
    return (
        Verdict.SUPPORTED,
        "it gains more than every control, over prompts and over documents, beyond the spread "
        "between control runs and beyond the margin set for it",
        "a control from which it does not differ",
    )


def _exhibits(
    passages: Sequence[Response], teacher: Mapping[str, str], advantage: Array
) -> tuple[Exhibit, ...]:
    """Return the prompts most for the finding and, as prominently, those most against it."""
    return tuple(
        Exhibit(
            id=passages[i].id,
            prompt=passages[i].prompt,
            answers={
                "teacher's continuation": teacher[passages[i].id],
                "true continuation": passages[i].response,
            },
            note=f"suspect gains {advantage[i]:+.2f} {UNIT} more than the controls here",
            side=side,
        )
        for side, i in both_sides(np.argsort(advantage).tolist())
    )


def _insufficient(n: int, reason: str, needed: int) -> ProbeResult:
    return ProbeResult(
        probe=NAME,
        needs="weights",
        verdict=Verdict.INSUFFICIENT,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=n,
        cannot_say=CANNOT_SAY,
        would_need=f"{needed} held-out prompts",
    )
