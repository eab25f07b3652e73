"""One suspect family before the line-up: every score, rank and check that a verdict looks at.

Shapes: N models, K groups, S suspects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audit.bank import Bank
from audit.lineup import ratio, reading, standing
from audit.lineup.index import Index
from audit.lineup.known import Facts
from audit.lineup.ratio import Ratio
from audit.lineup.standing import Array, Lineup, Mask, Standing
from audit.population import wilson

LEVELS = (0.05, 0.01)  # at which p-values of known unrelated pairs are counted

# Checks of the deciding score: the same question of other readings of the same answers.
CHECKS = {
    "format stripped": reading.PLAIN,
    "length matched": reading.MATCHED,
    "after the first words": reading.BODY,
    "long spans": reading.SPANS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """How p-values of documented negatives fall in a part of them.

    Attributes:
        name: of the part.
        alpha: a level.
        votes: of (family, group) in the part.
        share: of votes with p <= alpha.
        low: of the share's 95 % Wilson interval.
        high: of the same.
        corrected: whether p-values of makers that failed were corrected before.
    """

    name: str
    alpha: float
    votes: float
    share: float
    low: float
    high: float
    corrected: bool

    @property
    def fails(self) -> bool:
        """Tell whether too many are small for chance."""
        return self.low > self.alpha


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Suspects of one family, everything about them computed without that family's labels.

    Attributes:
        left_out: families that are no references.
        main: by the views that decide.
        p_SK: its p-values. For groups of a maker whose unrelated pairs have small ones too often
            they are not below the rank among that maker's pairs alone.
        own_SK: ranks among unrelated pairs of the group alone.
        checks: by the name of a check.
        check_SK: by the name of a check, its p-values.
        same_SK: share of prompts at which a member answers in the very same words, of those that
            both answer at length; NaN for too few.
        same_elsewhere: the largest such share of a documented unrelated pair.
        ratio: from the main score to a likelihood ratio; None with too few known pairs.
        weights: from the score after the first words to a ratio of "same weights" to "trained on
            its outputs"; None with too few known pairs.
        strata: of the references' own p-values, before and after that correction.
    """

    left_out: frozenset[str]
    main: Standing
    p_SK: Array
    own_SK: Array
    checks: Mapping[str, Standing]
    check_SK: Mapping[str, Array]
    same_SK: Array
    same_elsewhere: float
    ratio: Ratio | None
    weights: Ratio | None
    strata: tuple[Stratum, ...]


def lineup(bank: Bank, index: Index, facts: Facts, least_prompts: int) -> Lineup:
    """Return the models of a bank, side by side."""
    column = {name: number for number, name in enumerate(index.teachers)}
    return Lineup(
        products=index.products,
        family=tuple(model.family for model in bank.models),
        groups=tuple(tuple(column[name] for name in group.members) for group in bank.groups),
        negative_NK=facts.truths["negative"],
        least_prompts=least_prompts,
    )


def examine(
    models: Lineup, facts: Facts, suspects: Sequence[int], left_out: frozenset[str]
) -> Case:
    """Return the case of `suspects`, whose families are among `left_out`."""
    main = standing.stand(models, [v.name for v in reading.DECIDING], suspects, left_out)
    checks = {
        name: standing.stand(models, [view.name for view in views], suspects, left_out)
        for name, views in CHECKS.items()
    }
    same_NK = same_answers(models)
    unrelated_NK = models.negative_NK & ~models.rows(left_out)[:, None] & ~np.isnan(same_NK)
    same_KK = np.array([[a == b for b in facts.vendor] for a in facts.vendor])
    before = strata(models, facts, main.reference_NK, same_KK, None)
    failing = frozenset(one.name for one in before if one.fails)
    after = strata(models, facts, main.reference_NK, same_KK, failing)
    main_SK = main.p_values()
    p_SK = np.where(_too_small(facts, failing), np.fmax(main_SK, main.p_values(same_KK)), main_SK)
    return Case(
        left_out=left_out,
        main=main,
        p_SK=p_SK,
        own_SK=main.p_values(np.eye(len(facts.vendor), dtype=bool)),
        checks=checks,
        same_SK=same_NK[list(suspects)],
        same_elsewhere=float(same_NK[unrelated_NK].max(initial=0.0)),
        check_SK={name: found.p_values() for name, found in checks.items()},
        ratio=_ratio(models, facts, main),
        weights=_weights(models, facts, checks["after the first words"]),
        strata=(*before, *after),
    )


def same_answers(models: Lineup) -> Array:
    """Return at what share of prompts a model answers in the words of a group's member `[N, K]`.

    Of prompts that both answer at length; NaN where these are fewer than two models must share.
    The largest over the members, a model itself left out.
    """
    known = models.products[reading.SAME.name]
    both_PNT = known.there_PN[:, :, None] & known.there_PN[:, None, known.teachers]
    count_NT = both_PNT.sum(0)
    # Vectors of one word each: their product is 1 or 0.
    share_NT = known.teacher_PNT.sum(0) / np.maximum(count_NT, 1)
    share_NT = np.where(count_NT >= models.least_prompts, share_NT, np.nan).astype(np.float64)
    share_NT[known.teachers, np.arange(len(known.teachers))] = np.nan
    return np.stack([standing.best(share_NT[:, list(g)]) for g in models.groups], axis=1)


def _ratio(models: Lineup, facts: Facts, main: Standing) -> Ratio | None:
    """Return the likelihood ratio of related to unrelated."""
    return ratio.fit(
        main.reference_NK,
        facts.truths["positive"],
        models.negative_NK,
        models.family,
        least=ratio.LEAST_FAMILIES,
    )


def _weights(models: Lineup, facts: Facts, body: Standing) -> Ratio | None:
    """Return the likelihood ratio of the same weights to training on outputs."""
    derived_N1 = np.array([relation == "derivative" for relation in facts.relation])[:, None]
    return ratio.fit(
        body.reference_NK,
        facts.truths["positive"] & derived_N1,
        facts.truths["positive"] & ~derived_N1,
        models.family,
        least=ratio.LEAST_FAMILIES,
    )


def _of_maker(vendor: str) -> str:
    return f"groups of {vendor}"


def _too_small(facts: Facts, failing: frozenset[str]) -> Mask:
    """Return the groups `[K]` of makers whose stratum is among the failing."""
    return np.array([_of_maker(vendor) in failing for vendor in facts.vendor])


def strata(
    models: Lineup, facts: Facts, score_NK: Array, same_KK: Mask, failing: frozenset[str] | None
) -> tuple[Stratum, ...]:
    """Return how references' own p-values fall: all, by maker, human-data controls, by date.

    Args:
        models: the line-up.
        facts: what is documented.
        score_NK: of references, their own family left out.
        same_KK: groups of one maker.
        failing: strata whose makers' p-values are corrected first; None before any correction.
    """
    p_NK = reference_p(models, score_NK, np.ones_like(same_KK))
    if failing:
        among_NK = reference_p(models, score_NK, same_KK)
        p_NK = np.where(_too_small(facts, failing), np.fmax(p_NK, among_NK), p_NK)
    return tuple(
        stratum(name, p_NK, part_NK, models.family, alpha, corrected=failing is not None)
        for name, part_NK in parts(facts, ~np.isnan(p_NK)).items()
        for alpha in LEVELS
    )


def parts(facts: Facts, there_NK: Mask) -> dict[str, Mask]:
    """Return the strata: all pairs, human-data controls, certain by date, each maker's groups."""
    control_N1 = np.array([role == "control" for role in facts.role])[:, None]
    found = {
        "all": there_NK,
        "human-data controls": there_NK & control_N1,
        "certain by chronology": there_NK & facts.impossible(),
    }
    for vendor in dict.fromkeys(facts.vendor):
        found[_of_maker(vendor)] = there_NK & np.array([v == vendor for v in facts.vendor])
    return found


def reference_p(models: Lineup, score_NK: Array, among_KK: Mask) -> Array:
    """Return the rank of each documented negative among those of other families, as a p-value.

    Args:
        models: the line-up.
        score_NK: of references, their own family left out.
        among_KK: of each group, the groups whose pairs it is ranked among.
    """
    pairs_NK = models.negative_NK & ~np.isnan(score_NK)
    row_R, group_R = np.nonzero(pairs_NK)
    score_R, weight_R = score_NK[pairs_NK], standing.votes(models.family, pairs_NK)[pairs_NK]
    _, family_R = np.unique(
        np.array([models.family[row] for row in row_R]).astype(str), return_inverse=True
    )
    found_NK = np.full(score_NK.shape, np.nan)
    for place in range(len(score_R)):
        other_R = (family_R != family_R[place]) & among_KK[group_R[place], group_R]
        above = weight_R[other_R & (score_R >= score_R[place])].sum()
        found_NK[row_R[place], group_R[place]] = (1 + above) / (1 + weight_R[other_R].sum())
    return found_NK


def stratum(
    name: str,
    p_NK: Array,
    part_NK: Mask,
    family: tuple[str, ...],
    alpha: float,
    *,
    corrected: bool = False,
) -> Stratum:
    """Return the share of p <= alpha with its 95 % Wilson interval, one vote a (family, group)."""
    weight_NK = standing.votes(family, part_NK)
    total = float(weight_NK.sum())
    hits = float(weight_NK[part_NK & (p_NK <= alpha)].sum())
    low, high = wilson(hits, total)
    return Stratum(
        name=name,
        alpha=alpha,
        votes=total,
        share=hits / total if total else 0.0,
        low=low,
        high=high,
        corrected=corrected,
    )
