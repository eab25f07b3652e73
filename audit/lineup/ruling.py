"""From a case to findings: the four outcomes, each with its reason, and what would change it.

SUPPORTED needs all of this: a rank that holds after Holm's correction for the suspect's groups; a
group ahead of those of every other maker by a margin, its own included; no other group of the same
maker ahead; the same question answered with p <= alpha where format is stripped and where lengths
are equal; and after the first words, too, or else a likelihood ratio of at least 1 / alpha; dates
and documents that allow it; another maker than the suspect's; p-values that are known to be
calibrated for groups of that maker. Whatever is lacking is the reason for less.
"""

from dataclasses import dataclass

import numpy as np

from audit.bank import Bank, Group, Model
from audit.evidence import Verdict
from audit.lineup import known
from audit.lineup.case import Case
from audit.lineup.standing import LEAST_FAMILIES, Lineup
from audit.population import holm, references_needed

TRAINED = "trained on its outputs"
SERVED = "same model served"
SAME_WEIGHTS = "same weights tuned further, or its answers edited; these are not separated"
NOT_SEPARATED = "derived from it; by weights or by outputs is not separated"
SIBLING = "of one maker"
NONE = "no relation found"
OPEN = "not decided"
_BODY = "after the first words"


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
        tested: whether the answers can decide it: not where dates, makers or documents do.
        p_adjusted: after Holm's correction for the groups that are tested; of the others, the
            p-value as it is.
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
    tested: bool = False
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
    asked = [
        _Question(
            bank=bank,
            models=models,
            case=case,
            suspect=suspect,
            place=place,
            rules=rules,
            number=number,
            lacking=_lacking(models, case, place, rules, number, answered),
        )
        for number, group in enumerate(bank.groups)
        if group.name != suspect.group
    ]
    # What dates or makers decide is no question of the answers, so it costs none of them power.
    tested = [one for one in asked if not one.lacking and not one.decided_without()]
    adjusted = dict(
        zip((one.number for one in tested), holm([one.p_value for one in tested]), strict=True)
    )
    return [
        one.insufficient()
        if one.lacking
        else one.ruling(adjusted.get(one.number, one.p_value), len(tested))
        for one in asked
    ]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """One suspect and one group; `number` is the group's, `lacking` what an answer would need."""

    bank: Bank
    models: Lineup
    case: Case
    suspect: Model
    place: int
    rules: Rules
    number: int
    lacking: str

    @property
    def group(self) -> Group:
        return self.bank.groups[self.number]

    @property
    def score(self) -> float:
        return float(self.case.main.score_SK[self.place, self.number])

    @property
    def p_value(self) -> float:
        return float(self.case.p_SK[self.place, self.number])

    def insufficient(self) -> Ruling:
        return Ruling(
            suspect=self.suspect.name,
            group=self.group.name,
            verdict=Verdict.INSUFFICIENT,
            reason=self.lacking,
            relation=OPEN,
            checks={},
        )

    def ruling(self, adjusted: float, tests: int) -> Ruling:
        """Return the finding, given the p-value after correction for so many tests."""
        case, at = self.case, (self.place, self.number)
        verdict, reason = self._verdict(adjusted, tests)
        known_N = case.main.reference_NK[:, self.number]
        unrelated_R = known_N[self.models.negative_NK[:, self.number] & ~np.isnan(known_N)]
        return Ruling(
            suspect=self.suspect.name,
            group=self.group.name,
            verdict=verdict,
            reason=reason,
            relation=self._relation(verdict),
            score=self.score,
            rank=1 + int((unrelated_R >= self.score).sum()),
            rank_of=1 + len(unrelated_R),
            p_value=self.p_value,
            p_own=float(case.own_SK[at]),
            p_own_floor=1 / (1 + float(case.main.votes_K[self.number])),
            tested=not self.decided_without(),
            p_adjusted=adjusted,
            log10_lr=None if case.ratio is None else case.ratio.of(self.score),
            same_answers=_number(case.same_SK[at]),
            checks={
                check: (_number(found.score_SK[at]), _number(case.check_SK[check][at]))
                for check, found in case.checks.items()
            },
        )

    def decided_without(self) -> bool:
        """Tell whether the group cannot be SUPPORTED whatever the answers are like."""
        return (
            self._impossible()
            or self._of_one_maker()
            or self._own_is_older()
            or known.taught_by(self.bank, self.group, self.suspect)
        )

    def _impossible(self) -> bool:
        return known.before(self.suspect.published, self.group.launch)

    def _own(self) -> Group | None:
        groups = self.bank.groups  # one that the suspect names need not be among them
        return next((group for group in groups if group.name == self.suspect.group), None)

    def _of_one_maker(self) -> bool:
        own = self._own()
        return self.group.vendor in (self.suspect.family, None if own is None else own.vendor)

    def _own_is_older(self) -> bool:
        own = self._own()
        return own is not None and known.before(own.launch, self.group.launch)

    def _verdict(self, adjusted: float, tests: int) -> tuple[Verdict, str]:
        if self._impossible():
            return (
                Verdict.NOT_SUPPORTED,
                f"its answers were public by {self.suspect.published}, before the group's launch "
                f"on {self.group.launch}",
            )
        if adjusted > self.rules.alpha:
            return self._ordinary(tests)
        against = (
            self._siblings()
            or self._rival()
            or self._vanishes()
            or self._first_words_alone()
            or self._not_calibrated()
        )
        if against:
            return Verdict.INCONCLUSIVE, against
        return Verdict.SUPPORTED, self._strength()

    def _ordinary(self, tests: int) -> tuple[Verdict, str]:
        """Return what is said of a p-value that is not small, or not small enough."""
        if self.p_value > self.rules.clear:
            return Verdict.NOT_SUPPORTED, "unrelated models resemble their groups as much"
        if self.p_value > self.rules.alpha:
            return Verdict.INCONCLUSIVE, "few unrelated models resemble a group so much, but some"
        floor = 1 / (1 + float(self.case.main.votes_K.sum()))
        if floor * tests > self.rules.alpha:
            return (
                Verdict.INCONCLUSIVE,
                f"its p-value of {self.p_value:.4f} is small, but with so few reference models "
                f"none can hold after correction for {tests} groups",
            )
        return (
            Verdict.INCONCLUSIVE,
            f"its p-value of {self.p_value:.4f} does not hold after correction for {tests} groups",
        )

    def _siblings(self) -> str:
        if self._of_one_maker():
            return "both are of one maker; siblings resemble each other without being students"
        own = self._own()
        if own is not None and self._own_is_older():
            return (
                f"its own group was launched first ({own.launch}, the other {self.group.launch}), "
                "and likeness has no direction"
            )
        if known.taught_by(self.bank, self.group, self.suspect):
            return "it is documented to have taught the group, and likeness has no direction"
        return ""

    def _rival(self) -> str:
        """Return which other group is about as likely, or an empty text."""
        scores_K = self.case.main.score_SK[self.place]
        for other, rival in enumerate(self.bank.groups):
            ahead = self.score - scores_K[other]
            if other == self.number or np.isnan(ahead):
                continue
            same_maker = rival.vendor == self.group.vendor
            if not same_maker and ahead < self.rules.margin:
                return (
                    f"it resembles {rival.name} of another maker as much (scores "
                    f"{scores_K[other]:.2f} and {self.score:.2f}; a margin of "
                    f"{self.rules.margin:g} is needed)"
                )
            if same_maker and ahead < 0 and rival.name != self.suspect.group:
                return f"it resembles {rival.name} of the same maker more"
        return ""

    def _seen(self, check: str) -> bool:
        """Tell whether another reading of the answers shows the likeness, too."""
        return bool(self.case.check_SK[check][self.place, self.number] <= self.rules.alpha)

    def _vanishes(self) -> str:
        checks = ("format stripped", "length matched")
        lost = [check for check in checks if not self._seen(check)]
        return f"the likeness does not hold with {lost[0]}" if lost else ""

    def _first_words_alone(self) -> str:
        """Return why a likeness that is in the first words alone is too little, or an empty text.

        Anybody may have an opening in common with somebody, so it needs a second leg to stand on.
        """
        if self._seen(_BODY):
            return ""
        ratio, needed = self.case.ratio, 1 / self.rules.alpha
        known_ratio = None if ratio is None else 10 ** ratio.of(self.score)
        if known_ratio is not None and known_ratio >= needed * (1 - 1e-9):
            return ""
        is_ = "no ratio is known" if known_ratio is None else f"it is {known_ratio:.2g}"
        return (
            "it begins its answers as the group does, but further on the likeness is not seen; the "
            f"first words alone need a likelihood ratio of {needed:g}, and {is_}"
        )

    def _not_calibrated(self) -> str:
        failing = [one.name for one in self.case.strata if one.fails and one.corrected]
        if not failing:
            return ""
        return f"p-values of known unrelated pairs are too small among {failing[0]}"

    def _strength(self) -> str:
        """Return what a SUPPORTED finding rests on, and where it does not live."""
        if self._seen(_BODY):
            return "it resembles the group as no unrelated model does, beyond the first words, too"
        return "it begins its answers as the group does; further on the likeness is not seen"

    def _relation(self, verdict: Verdict) -> str:
        if verdict is Verdict.NOT_SUPPORTED:
            return NONE
        if verdict is Verdict.INCONCLUSIVE:
            return SIBLING if self._of_one_maker() else OPEN
        same = self.case.same_SK[self.place, self.number]
        if same >= self.rules.served and same > self.case.same_elsewhere:
            return SERVED
        body = self.case.checks[_BODY].score_SK[self.place, self.number]
        if self.case.weights is None or np.isnan(body):
            return NOT_SEPARATED
        times = 10 ** self.case.weights.of(float(body))
        if times >= self.rules.separated:
            return SAME_WEIGHTS
        return TRAINED if times <= 1 / self.rules.separated else NOT_SEPARATED


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
