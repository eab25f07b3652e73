"""Likelihood ratios from known pairs, no larger than their number supports.

Scores of documented pairs of other families, related and not, one vote a (family, group), each side
with the same total weight, so that the odds of a logistic regression on the score are the ratio.
It is cut off at log10(m + 1) for m families on the side that is spoken against: forty models cannot
show that something happens once in a thousand.

Shapes: N models, K groups.
"""

import math
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from audit.lineup.standing import Array, Mask, votes

LEAST_FAMILIES = 5  # on each side; with fewer there is no ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """log10 LR = slope * score + offset, between `low` and `high`."""

    slope: float
    offset: float
    low: float
    high: float

    def of(self, score: float) -> float:
        """Return log10 of the likelihood ratio of a score."""
        return min(max(self.slope * score + self.offset, self.low), self.high)


def fit(
    score_NK: Array, for_NK: Mask, against_NK: Mask, family: tuple[str, ...], *, least: int
) -> Ratio | None:
    """Return the ratio of `for_NK` to `against_NK`, or None where too few are known.

    Args:
        score_NK: NaN where nothing is known.
        for_NK: pairs of which the first proposition holds.
        against_NK: pairs of which the second holds.
        family: of each model.
        least: families that each side needs.

    Returns:
        None as well where known pairs of the first kind score no higher than the others.
    """
    sides = [pairs & ~np.isnan(score_NK) for pairs in (against_NK, for_NK)]
    families = [len({family[row] for row in np.nonzero(side)[0]}) for side in sides]
    if min(families) < least:
        return None
    weights = [votes(family, side) for side in sides]
    total = sum(families)
    x = np.concatenate([score_NK[side] for side in sides])[:, None]
    y = np.concatenate([np.full(int(side.sum()), i) for i, side in enumerate(sides)])
    w = np.concatenate(
        [
            weight[side] / weight.sum() * total / 2
            for weight, side in zip(weights, sides, strict=True)
        ]
    )
    model = LogisticRegression(C=1.0).fit(x, y, sample_weight=w)
    if model.coef_[0, 0] <= 0:  # where known pairs speak against the score it speaks for nothing
        return None
    return Ratio(
        slope=float(model.coef_[0, 0]) / math.log(10),
        offset=float(model.intercept_[0]) / math.log(10),
        low=-math.log10(families[1] + 1),
        high=math.log10(families[0] + 1),
    )
