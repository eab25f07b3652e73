"""The statistics a verdict rests on. Every one is tested by simulation under its null.

Three units can be replicated: prompts, the documents they were cut from, and whole training runs.
A thousand prompts make one model's score precise and say nothing of the next model, so each unit
has its own test.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

DRAWS = 9_999
_EXACT_UP_TO = 12


def sign_flip(differences: Array, clusters: Sequence[str], *, seed: int) -> float:
    """Return the one-sided p of "the mean of paired differences is not above zero".

    Under the null a difference is as likely as its negative. All differences of one cluster flip
    together; with one cluster a prompt this is the plain paired test. Exact up to 12 clusters,
    else by 9,999 random flips, where p = (1 + hits) / (1 + draws) (Phipson and Smyth, 2010).
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros(len(names))
    np.add.at(sums, [names[name] for name in clusters], differences)
    observed = sums.sum()
    slack = 1e-12 * np.abs(sums).sum()
    if len(sums) <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(sums))))
        return float((signs @ sums >= observed - slack).mean())
    random = np.random.default_rng(seed)
    signs = random.integers(0, 2, size=(DRAWS, len(sums))) * 2.0 - 1.0
    return float((1 + (signs @ sums >= observed - slack).sum()) / (1 + DRAWS))


def beyond_runs(value: float, controls: Sequence[float]) -> float | None:
    """Return the one-sided p of "`value` is one more draw from where the controls came from".

    Student's t with the spread between control runs as its yardstick,
    t = (value - mean) / (s sqrt(1 + 1/m)) on m - 1 degrees of freedom (Crawford and Howell, 1998).
    It assumes that runs from different seeds scatter normally. None with fewer than two controls,
    or when they do not scatter at all.
    """
    m = len(controls)
    if m < 2:
        return None
    spread = float(np.std(controls, ddof=1))
    excess = value - float(np.mean(controls))
    if spread <= 1e-12 * max(map(abs, controls)):  # equal but for rounding
        return 1.0 if excess <= 0 else None
    return float(stats.t.sf(excess / (spread * math.sqrt(1 + 1 / m)), m - 1))


def conformal_p(value: float, references: Sequence[float]) -> float:
    """Return (1 + how many references score at least `value`) / (1 + references): a rank p."""
    return (1 + sum(reference >= value for reference in references)) / (1 + len(references))


def references_needed(alpha: float) -> int:
    """Return how many reference models a rank p-value needs to reach `alpha`."""
    return math.ceil(1 / alpha - 1e-9) - 1


def wilson(hits: float, total: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share; hits may be fractions of votes."""
    if total <= 0:
        return 0.0, 1.0
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + z * z / (4 * total**2)) ** 0.5
    # At the ends rounding leaves a residue where there is none.
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == total else middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: the chance of any false finding."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - position) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap_interval(
    values: Array, clusters: Sequence[str], *, seed: int, draws: int = 4_000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean, drawing whole clusters with replacement."""
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    places = [names[name] for name in clusters]
    sums, sizes = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(sums, places, values)
    np.add.at(sizes, places, 1.0)
    picks = np.random.default_rng(seed).integers(0, len(names), size=(draws, len(names)))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def smallest_effect(values: Array, *, alpha: float, power: float = 0.8) -> float:
    """Return the mean that prompts with this scatter detect with probability `power`."""
    z = stats.norm.isf(alpha) + stats.norm.isf(1 - power)
    return float(z * np.std(values, ddof=1) / math.sqrt(len(values)))


def log10_likelihood_ratio(p_value: float, models: int) -> float:
    """Return log10 of the most that `p_value` can say for the alternative, bounded by the models.

    The bound of Sellke, Bayarri and Berger (2001), 1 / (-e p ln p) for p < 1/e and 1 above it; and
    never more than models + 1, because so few models cannot show rarer events.
    """
    ceiling = math.log10(models + 1)
    if p_value >= 1 / math.e:
        return 0.0
    p_value = max(p_value, 1e-300)
    return min(-math.log10(-math.e * p_value * math.log(p_value)), ceiling)
