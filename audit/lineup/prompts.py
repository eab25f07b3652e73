"""What single prompts contribute to a score: for its interval, and for exhibits.

A score is a mean over prompts put through a straight line, so each prompt has a share in it, and
drawing prompts with replacement gives the interval.

Shapes: P prompts, K groups, T teachers, V views.
"""

from collections.abc import Sequence

import numpy as np

from audit.lineup.standing import Array, Lineup, Scale


def contributions(
    lineup: Lineup, views: Sequence[str], row: int, left_out: frozenset[str], by: Scale
) -> tuple[Array, Array]:
    """Return the score each prompt alone would give `[P, K]`, and the likest members `[K]`.

    Their mean over prompts is the score. Where a prompt is not answered by both, it stands at the
    mean of the others. The likest member is a column of teachers, by the mean over views.

    Args:
        lineup: the models.
        views: that decide.
        row: the suspect's.
        left_out: families without a vote.
        by: the scale of its score.
    """
    likeness_VPK, members_VK = [], []
    for view in views:
        known = lineup.products[view]
        left_out_F = np.zeros(known.family_PNF.shape[2], dtype=bool)
        left_out_F[known.family_N[lineup.rows(left_out)]] = True
        mine_PT = known.centred(left_out_F)[:, row].astype(np.float64)
        mean_T = np.nan_to_num(np.nanmean(mine_PT, axis=0), nan=-np.inf)
        mean_T[known.teachers == row] = -np.inf
        best_K = [group[int(np.argmax(mean_T[list(group)]))] for group in lineup.groups]
        chosen_PK = mine_PT[:, best_K]
        filled_PK = np.where(np.isnan(chosen_PK), np.nanmean(chosen_PK, axis=0), chosen_PK)
        likeness_VPK.append(filled_PK)
        members_VK.append(best_K)
    last_K = np.array(members_VK[-1])
    return by.apply(np.stack(likeness_VPK)), last_K
