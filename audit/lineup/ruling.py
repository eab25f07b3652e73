"""From a case to findings: the four outcomes, each with its reason, and what would change it.

SUPPORTED needs all of this: a rank that holds after Holm's correction for the suspect's groups; a
group ahead of those of every other maker by a margin, its own included; no other group of the same
maker ahead; the same question answered with p <= alpha where format is stripped and where lengths
are equal; dates that allow it; another maker than the suspect's; p-values that are known to be
calibrated for groups of that maker. Whatever is lacking is the reason for less.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np

from audit.bank import Bank, Group, Model
from audit.evidence import Verdict
from audit.lineup.case import Case
from audit.lineup.standing import LEAST_FAMILIES, Lineup
from audit.population import holm, references_needed

TRAINED = "trained on its outputs"
SERVED = "same model served"
SAME_WEIGHTS = "same weights, further tuned or served otherwise"
NOT_SEPARATED = "derived from it; by weights or by outputs is not separated"
SIBLING = "of one maker"
NONE = "no relation found"
OPEN = "not decided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a finding needs.

    Attributes:
        alpha: level, after correction.
        margin: by which a group must be ahead of those of other makers, in spreads.
        clear: p above which nothing of a relation is seen.
        separated: how many times likelier one relation must be than the other to be named.
        served: share of answers in the very same words from which it is the same model.
    """

    alpha: float = 0.05
    margin: float = 1.0
    clear: float = 0.2
    separated: float = 4.0
    served: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """The finding on one suspect and one group.

    Attributes:
        suspect: name.
        group: name.
        score: in spreads of unrelated pairs; None where nothing is known.
        rank: of the suspect among models documented to be unrelated to the group, 1 the likest.
        rank_of: how many models that is, the suspect included.
        p_value: among unrelated pairs of all groups.
        p_own: among those of this group alone, and `p_own_floor`, below which it cannot be.
        p_adjusted: after Holm's correction for the groups that neither dates nor makers decide;
            of those that they decide, the p-value as it is.
        log10_lr: of "derived from the group" to "not", bounded; None without known pairs.
        same_answers: share of prompts with the very same answer as a member, of those that both
            answer at length; None for too few.
        checks: by name, score and p-value of the same question of other readings.
    """

    suspect: str
    group: str
    verdict: Verdict
    reason: str
    relation: str
    score: float | None = None
    rank: int | None = None
    rank_of: int | None = None
    p_value: float | None = None
    p_own: float | None = None
    p_own_floor: float | None = None
    p_adjusted: float | None = None
    log10_lr: float | None = None
    same_answers: float | None = None
    checks: dict[str, tuple[float | None, float | None]]


def rule(
    bank: Bank,
    models: Lineup,
    case: Case,
    suspect: Model,
    place: int,
    rules: Rules,
    *,
    answered: int,
) -> list[Ruling]:
    """Return the findings on one suspect, one a group it is not a member of, in order.

    Args:
        bank: its groups are asked about.
        models: the line-up.
        case: of the suspect's family.
        suspect: what may be known of it: its name, family, group and date.
        place: of the suspect among the case's.
        rules: what a finding needs.
        answered: prompts it answers.
    """
    asked = [k for k, group in enumerate(bank.groups) if group.name != suspect.group]
    scores_K = case.main.score_SK[place]
    known = [k for k in asked if not np.isnan(scores_K[k])]
    p_K = {k: float(case.p_SK[place, k]) for k in known}
    # What dates or makers decide is no question of the answers, so it costs none of them power.
    open_ = [k for k in known if not _decided_without(bank, suspect, k)]
    adjusted = p_K | dict(zip(open_, holm([p_K[k] for k in open_]), strict=True))
    return [
        _rule(
            *(bank, models, case, suspect, place, rules, k),
            adjusted=adjusted.get(k, 1.0),
            tests=len(open_),
            answered=answered,
        )
        for k in asked
    ]


def _decided_without(bank: Bank, suspect: Model, group: int) -> bool:
    """Tell whether a group cannot be SUPPORTED whatever the answers are like."""
    return _before(suspect.published, bank.groups[group]) or bool(_one_maker(bank, suspect, group))


def _rule(
    bank: Bank,
    models: Lineup,
    case: Case,
    suspect: Model,
    place: int,
    rules: Rules,
    group: int,
    *,
    adjusted: float,
    tests: int,
    answered: int,
) -> Ruling:
    name = bank.groups[group].name
    lacking = _lacking(models, case, place, rules, group, answered)
    if lacking:
        return Ruling(
            suspect=suspect.name,
            group=name,
            verdict=Verdict.INSUFFICIENT,
            reason=lacking,
            relation=OPEN,
            checks={},
        )
    verdict, reason = _verdict(bank, case, suspect, place, rules, group, adjusted, tests)
    score = float(case.main.score_SK[place, group])
    unrelated_N = case.main.reference_NK[:, group][_compared(models, case, group)]
    return Ruling(
        suspect=suspect.name,
        group=name,
        verdict=verdict,
        reason=reason,
        relation=_relation(case, place, rules, group, verdict, reason),
        score=score,
        rank=1 + int((unrelated_N >= score).sum()),
        rank_of=1 + len(unrelated_N),
        p_value=float(case.p_SK[place, group]),
        p_own=float(case.own_SK[place, group]),
        p_own_floor=1 / (1 + float(case.main.votes_K[group])),
        p_adjusted=adjusted,
        log10_lr=None if case.ratio is None else case.ratio.of(score),
        same_answers=_number(case.same_SK[place, group]),
        checks={
            check: (
                _number(found.score_SK[place, group]),
                _number(case.check_SK[check][place, group]),
            )
            for check, found in case.checks.items()
        },
    )


def _compared(models: Lineup, case: Case, group: int) -> np.ndarray:
    """Return which models the suspects are ranked among for a group: bool `[N]`."""
    return models.negative_NK[:, group] & ~np.isnan(case.main.reference_NK[:, group])


def _lacking(
    models: Lineup, case: Case, place: int, rules: Rules, group: int, answered: int
) -> str:
    """Return what is missing for a score and a p-value, or an empty text."""
    if answered < models.least_prompts:
        return f"it answers {answered} of the bank's prompts, and {models.least_prompts} are needed"
    if case.main.votes_K[group] < LEAST_FAMILIES - 1e-9:
        return (
            f"the bank documents {case.main.votes_K[group]:.0f} unrelated families for this "
            f"group, and {LEAST_FAMILIES} are needed"
        )
    if np.isnan(case.main.score_SK[place, group]):
        return f"it shares fewer than {models.least_prompts} answered prompts with the group"
    needed = references_needed(rules.alpha)
    votes = float(case.main.votes_K.sum())
    if votes < needed - 1e-9:
        return (
            f"{votes:.0f} unrelated pairs of families and groups are known, and a "
            f"p-value of {rules.alpha:g} needs {needed}"
        )
    return ""


def _verdict(
    bank: Bank,
    case: Case,
    suspect: Model,
    place: int,
    rules: Rules,
    group: int,
    adjusted: float,
    tests: int,
) -> tuple[Verdict, str]:
    this = bank.groups[group]
    if _before(suspect.published, this):
        return (
            Verdict.NOT_SUPPORTED,
            f"its answers were public by {suspect.published}, before the group's launch on "
            f"{this.launch}",
        )
    p_value = case.p_SK[place, group]
    if adjusted > rules.alpha:
        if p_value > rules.clear:
            return Verdict.NOT_SUPPORTED, "unrelated models resemble their groups as much"
        if p_value > rules.alpha:
            return Verdict.INCONCLUSIVE, "few unrelated models resemble a group so much, but some"
        return Verdict.INCONCLUSIVE, _uncorrected(case, rules, p_value, tests)
    against = _against(bank, case, suspect, place, rules, group)
    if against:
        return Verdict.INCONCLUSIVE, against
    return Verdict.SUPPORTED, _strength(case, place, group, rules)


def _uncorrected(case: Case, rules: Rules, p_value: float, tests: int) -> str:
    """Return why a small p-value is not small enough, and whether any could be."""
    floor = 1 / (1 + float(case.main.votes_K.sum()))
    if floor * tests > rules.alpha:
        return (
            f"its p-value of {p_value:.4f} is small, but with so few reference models none can "
            f"hold after correction for {tests} groups"
        )
    return f"its p-value of {p_value:.4f} does not hold after correction for {tests} groups"


def _against(bank: Bank, case: Case, suspect: Model, place: int, rules: Rules, group: int) -> str:
    """Return why a likeness that is beyond chance is still no finding, or an empty text."""
    return (
        _one_maker(bank, suspect, group)
        or _rival(bank, case, suspect, place, rules, group)
        or _vanishes(case, place, rules, group)
        or _not_calibrated(case)
    )


def _one_maker(bank: Bank, suspect: Model, group: int) -> str:
    this = bank.groups[group]
    own = next((other for other in bank.groups if other.name == suspect.group), None)
    if this.vendor in (suspect.family, None if own is None else own.vendor):
        return "both are of one maker; siblings resemble each other without being students"
    if own is not None and own.launch and this.launch and own.launch < this.launch:
        return (
            f"its own group was launched first ({own.launch}, the other {this.launch}), and "
            "likeness has no direction"
        )
    return ""


def _rival(bank: Bank, case: Case, suspect: Model, place: int, rules: Rules, group: int) -> str:
    """Return which other group is about as likely, or an empty text."""
    this, scores_K = bank.groups[group], case.main.score_SK[place]
    for other, rival in enumerate(bank.groups):
        ahead = scores_K[group] - scores_K[other]
        if other == group or np.isnan(ahead):
            continue
        if rival.vendor != this.vendor and ahead < rules.margin:
            return (
                f"it resembles {rival.name} of another maker as much (scores "
                f"{scores_K[other]:.2f} and {scores_K[group]:.2f}; a margin of "
                f"{rules.margin:g} is needed)"
            )
        if rival.vendor == this.vendor and ahead < 0 and rival.name != suspect.group:
            return f"it resembles {rival.name} of the same maker more"
    return ""


def _vanishes(case: Case, place: int, rules: Rules, group: int) -> str:
    for check in ("format stripped", "length matched"):
        p_value = case.check_SK[check][place, group]
        if np.isnan(p_value) or p_value > rules.alpha:
            return f"the likeness does not hold with {check}"
    return ""


def _not_calibrated(case: Case) -> str:
    failing = [one.name for one in case.strata if one.fails and one.corrected]
    return f"p-values of known unrelated pairs are too small among {failing[0]}" if failing else ""


def _before(made: date | None, group: Group) -> bool:
    return made is not None and group.launch is not None and made < group.launch


def _strength(case: Case, place: int, group: int, rules: Rules) -> str:
    """Return what a SUPPORTED finding rests on, and where it does not live."""
    p_value = case.check_SK["after the first words"][place, group]
    if np.isnan(p_value) or p_value > rules.alpha:
        return "it begins its answers as the group does; further on the likeness is not seen"
    return "it resembles the group as no unrelated model does, beyond the first words, too"


def _relation(
    case: Case, place: int, rules: Rules, group: int, verdict: Verdict, reason: str
) -> str:
    if verdict is Verdict.NOT_SUPPORTED:
        return NONE
    if verdict is not Verdict.SUPPORTED:
        return SIBLING if reason.startswith("both are of one maker") else OPEN
    same = case.same_SK[place, group]
    if same >= rules.served and same > case.same_elsewhere:
        return SERVED
    body = case.checks["after the first words"].score_SK[place, group]
    if case.weights is None or np.isnan(body):
        return NOT_SEPARATED
    times = 10 ** case.weights.of(float(body))
    if times >= rules.separated:
        return SAME_WEIGHTS
    return TRAINED if times <= 1 / rules.separated else NOT_SEPARATED


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
