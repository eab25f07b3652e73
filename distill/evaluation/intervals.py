"""Paired differences between a student and its teacher, each with its interval.

Both answer the same items, so what is compared is the difference an item. Items of one document
are not independent and are drawn together. `compare` takes totals (nats, bits) and bootstraps
documents: BCa (Efron, 1987) with the percentiles spread as a t distribution's are, without which
few documents give too narrow an interval (Hesterberg, 2015). `compare_accuracy` takes right and
wrong answers to independent items and adjusts Wald's interval (Bonett and Price, 2012); where
nobody is there to compare with, `accuracy` has one side's share by Wilson's interval (1927).

Shapes: C clusters, D draws.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

DRAWS = 9_999
LEVEL = 0.95
_AT_ONCE = 2**21  # clusters drawn at once, over all draws


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A student minus its teacher.

    Attributes:
        difference: of the means.
        low: lower end of the interval; None where one cluster alone says nothing of the next.
        high: upper end.
        level: of the interval.
        n: items.
        clusters: what was drawn as one.
    """

    difference: float
    low: float | None
    high: float | None
    level: float
    n: int
    clusters: int


def compare(
    student: Sequence[float] | Array,
    teacher: Sequence[float] | Array,
    clusters: Sequence[Hashable],
    *,
    sizes: Sequence[float] | Array | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Return sum(student - teacher) / sum(sizes), with its interval over clusters.

    Args:
        student: a score each item; a total where `sizes` are given, such as bits.
        teacher: the same of the teacher, for the same items.
        clusters: which items are drawn together, such as the name of an item's document.
        sizes: what the totals are divided by, such as bytes; 1 each by default.
        seed: of the draws.
        level: of the interval.

    Raises:
        ValueError: there is no item, lengths differ, a score is not finite, or sizes sum to 0.
    """
    differences = np.asarray(student, dtype=float) - np.asarray(teacher, dtype=float)
    weights = np.ones(len(differences)) if sizes is None else np.asarray(sizes, dtype=float)
    if not 0 < len(differences) == len(clusters) == len(weights):
        raise ValueError("scores, clusters and sizes must be of the same items, at least one")
    if not (np.isfinite(differences).all() and weights.sum() > 0):
        raise ValueError("scores must be finite, and sizes above 0 in sum")
    totals_2C = _by_cluster(differences, weights, clusters)
    low, high = _bca(totals_2C, seed, level)
    return Difference(
        difference=_ratio(totals_2C.sum(1)),
        low=low,
        high=high,
        level=level,
        n=len(differences),
        clusters=totals_2C.shape[1],
    )


def compare_accuracy(
    student: Sequence[bool], teacher: Sequence[bool], *, level: float = LEVEL
) -> Difference:
    """Return the student's share of right answers minus the teacher's, with its interval.

    Items are independent. With n items, of which b only the student has right and c only the
    teacher, p = (b + 1) / (n + 2) and q = (c + 1) / (n + 2), the interval is
    p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)): also of some width where both always agree.

    Raises:
        ValueError: there is no item, or the two answered different numbers of items.
    """
    if not 0 < len(student) == len(teacher):
        raise ValueError("both must have answered the same items, at least one")
    n = len(student)
    pairs = list(zip(map(bool, student), map(bool, teacher), strict=True))
    only, lost = pairs.count((True, False)), pairs.count((False, True))
    p, q = (only + 1) / (n + 2), (lost + 1) / (n + 2)
    half = float(stats.norm.isf((1 - level) / 2)) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Difference(
        difference=(only - lost) / n,
        low=max(p - q - half, -1.0),
        high=min(p - q + half, 1.0),
        level=level,
        n=n,
        clusters=n,
    )


def accuracy(right: Sequence[bool], *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the share of right answers to independent items, and its interval's two ends.

    Raises:
        ValueError: there is no item.
    """
    if not right:
        raise ValueError("at least one item must have been answered")
    found = stats.binomtest(sum(map(bool, right)), len(right))
    ends = found.proportion_ci(confidence_level=level, method="wilson")
    return found.statistic, float(ends.low), float(ends.high)


def _by_cluster(differences: Array, weights: Array, clusters: Sequence[Hashable]) -> Array:
    """Return each cluster's sum of differences and of weights, `[2, C]`, in order of appearance."""
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    places = [names[name] for name in clusters]
    return np.stack(
        [np.bincount(places, values, minlength=len(names)) for values in (differences, weights)]
    )


def _ratio(totals: Array) -> float:
    return float(totals[0] / totals[1])


def _bca(totals_2C: Array, seed: int, level: float) -> tuple[float | None, float | None]:
    """Return the interval of the ratio of sums, or nothing where there is but one cluster."""
    count = totals_2C.shape[1]
    if count < 2:
        return None, None
    estimate = _ratio(totals_2C.sum(1))
    without_2C = totals_2C.sum(1, keepdims=True) - totals_2C
    known = without_2C[1] > 0  # one document may hold all that is counted
    left_C = without_2C[0, known] / without_2C[1, known]
    spread_C = left_C.mean() - left_C
    if not known.any() or np.abs(spread_C).max() <= 1e-12 * max(abs(estimate), 1e-300):
        return (estimate, estimate) if known.all() else (None, None)
    drawn = _draws(totals_2C, seed)
    # Ties count half, or a statistic of few values would seem biased.
    below = (np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    acceleration = (spread_C**3).sum() / (6 * (spread_C**2).sum() ** 1.5)
    wide = math.sqrt(count / (count - 1)) * stats.t.isf((1 - level) / 2, count - 1)
    shares = []
    for z in (bias - wide, bias + wide):
        # Beyond 1 / acceleration the formula turns back; there the end is the last draw.
        room = 1 - acceleration * z
        shares.append(stats.norm.cdf(bias + z / room) if room > 0 else float(z > 0))
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)


def _draws(totals_2C: Array, seed: int) -> Array:
    """Return the ratio in `DRAWS` samples of as many clusters, with replacement."""
    random = np.random.default_rng(seed)
    count = totals_2C.shape[1]
    step = max(1, _AT_ONCE // count)
    found = []
    for start in range(0, DRAWS, step):
        picks = random.integers(0, count, size=(min(step, DRAWS - start), count))
        sums_2D = totals_2C[:, picks].sum(-1)
        found.append(sums_2D[:, sums_2D[1] > 0])
    drawn_2D = np.concatenate(found, axis=1)
    return drawn_2D[0] / drawn_2D[1]
