"""What single prompts contribute to a score: for its interval, and for exhibits.

A score is a mean over prompts put through a straight line, so each prompt has a share in it, and
drawing prompts with replacement gives the interval.

Shapes: P prompts, K groups, T teachers, V views.
"""

from collections.abc import Sequence

import numpy as np

from audit.lineup.standing import Array, Lineup, Scale


def likeness(lineup: Lineup, views: Sequence[str], row: int, left_out: frozenset[str]) -> Array:
    """Return how alike a model is to each teacher at each prompt `[V, P, T]`.

    NaN where one of both does not answer, and of the model with itself.

    Args:
        lineup: the models.
        views: that are read.
        row: the model's.
        left_out: families without a vote.
    """
    found = []
    for view in views:
        known = lineup.products[view]
        left_out_F = np.zeros(known.family_PNF.shape[2], dtype=bool)
        left_out_F[known.family_N[lineup.rows(left_out)]] = True
        mine_PT = known.centred(left_out_F)[:, row].astype(np.float64)
        mine_PT[:, known.teachers == row] = np.nan
        found.append(mine_PT)
    return np.stack(found)


def contributions(
    likeness_VPT: Array, groups: Sequence[Sequence[int]], by: Scale
) -> tuple[Array, Array]:
    """Return the score each prompt alone would give `[P, K]`, and the likest members `[K]`.

    Their mean over prompts is the score. Where a prompt is not answered by both, it stands at the
    mean of the others. The likest member is a column of teachers, by the last view.

    Args:
        likeness_VPT: of the suspect, by the views that decide.
        groups: columns of the members of each group.
        by: the scale of its score.
    """
    likeness_VPK, best_K = [], [0] * len(groups)
    for mine_PT in likeness_VPT:
        mean_T = np.nan_to_num(means(mine_PT), nan=-np.inf)
        best_K = [group[int(np.argmax(mean_T[list(group)]))] for group in groups]
        chosen_PK = mine_PT[:, best_K]
        likeness_VPK.append(np.where(np.isnan(chosen_PK), means(chosen_PK), chosen_PK))
    stacked_VPK = np.stack(likeness_VPK)
    every_PK = np.ones(stacked_VPK.shape[1:], dtype=np.bool_)
    return by.apply(stacked_VPK, every_PK), np.array(best_K)


def means(values_PT: Array) -> Array:
    """Return the mean of each column's known values `[T]`, NaN of none."""
    known_PT = ~np.isnan(values_PT)
    count_T = known_PT.sum(0)
    total_T = np.where(known_PT, values_PT, 0.0).sum(0)
    unknown = np.full(len(count_T), np.nan)
    found: Array = np.divide(total_T, count_T, out=unknown, where=count_T > 0)
    return found
