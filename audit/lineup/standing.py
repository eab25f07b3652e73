"""Where a suspect stands among reference models: scores on one scale, and ranks.

A raw likeness (`likeness.py`) depends on the group, since some teachers are like everybody, and on
the model, since a capable one is like any capable teacher. So it is taken in spreads of unrelated
models about their mean, group by group, and then minus the mean over all other groups. Of a
reference these are the groups that it is documented to be unrelated to: with a student's own
teacher among them its other likenesses would look small, and a suspect that nobody taught, beside
such references, unusual.

What is replicated is the model, and more strictly the family. The p-value of a pair is its rank
among all documented-negative pairs of other families, one vote a (family, group). The suspect's
family and a reference's are both left out of the spreads that the two are measured by, so that
under the null they can be swapped: the jackknife+ of Barber, Candes, Ramdas and Tibshirani (2021),
one family at a time, one-sided.

Shapes: N models, K groups, T teachers, F families, V views, S suspects.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from audit.lineup.likeness import Products, mean

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Families that must be known not to be related to a group before its own mean means anything.
LEAST_FAMILIES = 3
_BORROWED = 5.0  # families' worth of the spread of all groups in that of each


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineup:
    """Models at the same prompts, suspects among them.

    Attributes:
        products: by the name of a view.
        family: of each model.
        groups: columns of the members of each group; no teacher is in two.
        negative_NK: pairs documented to be unrelated.
        least_prompts: that two models must both answer to be compared.
    """

    products: Mapping[str, Products]
    family: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    negative_NK: Mask
    least_prompts: int
    _raw: dict[tuple[str, frozenset[str]], Array] = field(default_factory=dict)

    def at(self, prompts: npt.NDArray[np.intp]) -> "Lineup":
        """Return the same models at some of the prompts, by their places."""
        products = {name: one.at(prompts) for name, one in self.products.items()}
        return replace(self, products=products, _raw={})

    def rows(self, families: frozenset[str]) -> Mask:
        """Return which models are of these families: bool `[N]`."""
        return np.array([name in families for name in self.family])

    def raw(self, view: str, left_out: frozenset[str]) -> Array:
        """Return the likeness `[N, K]` of each model to the likest member of each group.

        A member is never compared with itself; NaN where no other is left.

        Args:
            view: its name.
            left_out: families without a vote in what everybody says.
        """
        key = (view, left_out)
        if key not in self._raw:
            known = self.products[view]
            left_out_F = np.zeros(known.family_PNF.shape[2], dtype=bool)
            left_out_F[known.family_N[self.rows(left_out)]] = True
            found_NT, count_NT = mean(known.centred(left_out_F))
            found_NT[count_NT < self.least_prompts] = np.nan
            found_NT[known.teachers, np.arange(len(known.teachers))] = np.nan
            likest = [best(found_NT[:, list(group)]) for group in self.groups]
            self._raw[key] = np.stack(likest, axis=1)
        return self._raw[key]


def best(values_NM: npt.NDArray[np.floating]) -> Array:
    """Return the largest of each row, NaN where there is none."""
    best_N = np.where(np.isnan(values_NM), -np.inf, values_NM).max(1)
    return np.asarray(np.where(np.isinf(best_N), np.nan, best_N), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What raw likeness is measured by: z = (mean_v (x - mean_VK) / spread_VK, less all groups').

    Attributes:
        mean_VK: of unrelated models, by view and group.
        spread_VK: their standard deviation.
        centre: mean of the pairs that are unrelated, after groups are taken off one another.
        spread: their standard deviation.
        known_K: groups with enough unrelated families; the others have no score.
    """

    mean_VK: Array
    spread_VK: Array
    centre: float
    spread: float
    known_K: Mask

    def apply(self, raw_VNK: Array, beside_NK: Mask) -> Array:
        """Return the scores `[N, K]`, NaN where nothing is known.

        Args:
            raw_VNK: likeness by view.
            beside_NK: groups whose mean is taken off a model's likeness to another.
        """
        return (self._relative(raw_VNK, beside_NK) - self.centre) / self.spread

    def _relative(self, raw_VNK: Array, beside_NK: Mask) -> Array:
        each_VNK = (raw_VNK - self.mean_VK[:, None]) / self.spread_VK[:, None]
        z_NK = np.where(self.known_K, each_VNK.mean(0), np.nan)
        beside_NK = beside_NK & ~np.isnan(z_NK)
        filled_NK = np.where(beside_NK, z_NK, 0)
        # Minus the others over the number of all: with one group alone nothing is taken off.
        others_NK = filled_NK.sum(1, keepdims=True) - filled_NK
        count_NK = beside_NK.sum(1, keepdims=True) - beside_NK + 1
        return np.asarray(z_NK - others_NK / count_NK, dtype=np.float64)


def votes(family: Sequence[str], pairs_NK: Mask) -> Array:
    """Return the weight `[N, K]` of each pair: a family's pairs with one group share one vote."""
    names, number_N = np.unique(np.array(family, dtype=object).astype(str), return_inverse=True)
    count_FK = np.zeros((len(names), pairs_NK.shape[1]))
    np.add.at(count_FK, number_N, pairs_NK)
    return np.where(pairs_NK, 1 / np.maximum(count_FK[number_N], 1), 0.0)


def scale(raw_VNK: Array, unrelated_NK: Mask, beside_NK: Mask, family: Sequence[str]) -> Scale:
    """Return the scale of some unrelated pairs.

    Args:
        raw_VNK: likeness by view.
        unrelated_NK: the pairs to measure by.
        beside_NK: groups whose mean is taken off a model's likeness to another.
        family: of each model.
    """
    unrelated_NK = unrelated_NK & ~np.isnan(raw_VNK).any(0)
    weight_NK = votes(family, unrelated_NK)
    total_K = weight_NK.sum(0)
    known_K = total_K >= LEAST_FAMILIES - 1e-9
    filled_VNK = np.where(unrelated_NK, raw_VNK, 0)
    mean_VK = (weight_NK * filled_VNK).sum(1) / np.maximum(total_K, 1e-9)
    off_VNK = np.where(unrelated_NK, filled_VNK - mean_VK[:, None], 0)
    variance_VK = (weight_NK * off_VNK**2).sum(1) / np.maximum(total_K - 1, 1e-9)
    pooled_V1 = variance_VK[:, known_K].mean(1, keepdims=True) if known_K.any() else np.ones((1, 1))
    mixed_VK = (variance_VK * total_K + pooled_V1 * _BORROWED) / (total_K + _BORROWED)
    first = Scale(
        mean_VK=mean_VK,
        spread_VK=np.sqrt(np.maximum(mixed_VK, 1e-18)),
        centre=0.0,
        spread=1.0,
        known_K=known_K,
    )
    z_NK = first.apply(raw_VNK, beside_NK)
    weight_NK = np.where(np.isnan(z_NK), 0, weight_NK)
    total = max(weight_NK.sum(), 1e-9)
    z_NK = np.nan_to_num(z_NK)
    centre = float((weight_NK * z_NK).sum() / total)
    variance = float((weight_NK * (z_NK - centre) ** 2).sum() / total)
    return Scale(
        mean_VK=mean_VK,
        spread_VK=first.spread_VK,
        centre=centre,
        spread=max(variance, 1e-18) ** 0.5,
        known_K=known_K,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What is known of suspects, all of families that are left out of the references.

    Attributes:
        score_SK: in spreads of unrelated pairs; NaN where nothing is known.
        above_SKK: votes of unrelated pairs of each group (last axis) that score as high.
        votes_K: votes of unrelated pairs of each group.
        reference_NK: scores of all other models, their own family left out, too; for comparison.
            Those of related pairs are as a suspect's would be.
        scale: by which `score_SK` was measured.
    """

    score_SK: Array
    above_SKK: Array
    votes_K: Array
    reference_NK: Array
    scale: Scale

    def p_values(self, among_KK: Mask | None = None) -> Array:
        """Return ranks as p-values `[S, K]`, NaN where there is no score.

        Args:
            among_KK: of each group, the groups whose unrelated pairs it is ranked among; all if
                not given. No p-value is below 1 / (1 + their votes).
        """
        if among_KK is None:
            among_KK = np.ones(self.above_SKK.shape[1:], dtype=bool)
        above_SK = (self.above_SKK * among_KK).sum(-1)
        p_SK = (1 + above_SK) / (1 + among_KK @ self.votes_K)
        return np.where(np.isnan(self.score_SK), np.nan, p_SK)


def stand(
    lineup: Lineup, views: Iterable[str], suspects: Sequence[int], left_out: frozenset[str]
) -> Standing:
    """Return where `suspects` stand.

    Args:
        lineup: suspects and references.
        views: their mean is the score.
        suspects: rows.
        left_out: families of the suspects and of what they are known to be related to; none of
            their models is a reference.
    """
    rows_S = list(suspects)
    out_N = lineup.rows(left_out)
    out_N[rows_S] = True
    usable_NK = lineup.negative_NK & ~out_N[:, None]
    raw_VNK = np.stack([lineup.raw(view, left_out) for view in views])
    # Of a suspect nothing is known, so its likeness to every group is its background.
    beside_NK = lineup.negative_NK | out_N[:, None]
    alone = scale(raw_VNK, usable_NK, beside_NK, lineup.family)
    score_SK = alone.apply(raw_VNK, beside_NK)[rows_S]
    everything_NK = np.ones_like(usable_NK)
    reference_NK = np.full(usable_NK.shape, np.nan)
    above_SKK = np.zeros((*score_SK.shape, usable_NK.shape[1]))
    votes_K = np.zeros(usable_NK.shape[1])
    for name in dict.fromkeys(f for f, out in zip(lineup.family, out_N, strict=True) if not out):
        rows_N = lineup.rows(frozenset({name})) & ~out_N
        both = scale(raw_VNK, usable_NK & ~rows_N[:, None], beside_NK, lineup.family)
        z_NK = both.apply(raw_VNK, beside_NK)
        # Related pairs are what a suspect's would be, whose relations are not known beforehand.
        blind_NK = both.apply(raw_VNK, everything_NK)
        reference_NK[rows_N] = np.where(lineup.negative_NK, z_NK, blind_NK)[rows_N]
        pairs_NK = usable_NK & rows_N[:, None] & ~np.isnan(z_NK)
        share_NK = votes(lineup.family, pairs_NK)
        votes_K += share_NK.sum(0)
        above_SKK += _above(z_NK[rows_S], z_NK, share_NK, pairs_NK)
    return Standing(
        score_SK=score_SK,
        above_SKK=above_SKK,
        votes_K=votes_K,
        reference_NK=reference_NK,
        scale=alone,
    )


def _above(score_SK: Array, z_NK: Array, share_NK: Array, pairs_NK: Mask) -> Array:
    """Return the votes `[S, K, K]` of pairs, by their group, that score at least as high."""
    _, group_R = np.nonzero(pairs_NK)
    hit_SKR = z_NK[pairs_NK] >= score_SK[:, :, None]
    of_group_RK = (
        np.equal.outer(group_R, np.arange(pairs_NK.shape[1])) * share_NK[pairs_NK][:, None]
    )
    found: Array = hit_SKR @ of_group_RK
    return found
