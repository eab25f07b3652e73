"""Is the likeness one to this group? The same with teachers dealt out anew at each prompt.

Every teacher's answer to a prompt goes to another teacher at random, prompt by prompt, so that what
is left of a group is a name. A likeness that stands as high then is to no group in particular. It
replicates prompts and not models, so it speaks of the measurement and not of training: it supports
nothing, and a likeness that does not pass it should not be trusted.

Shapes: V views, P prompts, T teachers, K groups.
"""

from collections.abc import Sequence

import numpy as np

from audit.evidence import ProbeResult, Verdict
from audit.lineup.prompts import means
from audit.lineup.standing import Array

NAME = "permuted teachers"
UNIT = "p over random dealings"
NULL = "Which teacher gave which of the answers to a prompt makes no difference to the likeness."
CANNOT_SAY = (
    "A model that no group taught may be likest to some group, too, and pass this; how unusual "
    "that is among models is what the ranks say.",
)
DRAWS = 999


def p_values(likeness_VPT: Array, groups: Sequence[Sequence[int]], *, seed: int) -> Array:
    """Return, by group, the share of random dealings in which the likeness is as large `[K]`.

    Counted with the dealing that was observed, so that it is a p-value (Phipson and Smyth, 2010);
    1 where the group has no answer to compare.

    Args:
        likeness_VPT: of the suspect with each teacher's answer to each prompt; NaN for none.
        groups: columns of the members of each group.
        seed: of the dealings.
    """
    there_PT = ~np.isnan(likeness_VPT).any(0)
    used = there_PT.sum(1) >= 2
    values_VPT = np.where(there_PT, likeness_VPT, np.nan)[:, used]
    if not used.any():
        return np.ones(len(groups))
    # Views in spreads of their own, so that none counts for more than another.
    spread_V11 = np.nanstd(values_VPT, axis=(1, 2), keepdims=True)
    mean_V11 = np.nanmean(values_VPT, axis=(1, 2), keepdims=True)
    values_PT = ((values_VPT - mean_V11) / np.maximum(spread_V11, 1e-12)).mean(0)
    observed_K = _relative(values_PT, groups)
    random = np.random.default_rng(seed)
    # Only answers that are there change hands, so that nobody's coverage does.
    key_PT = np.where(np.isnan(values_PT), np.inf, 0.0)
    place_PT = np.argsort(key_PT, axis=1, kind="stable")
    hits_K = np.zeros(len(groups))
    for _ in range(DRAWS):
        dealt_PT = np.argsort(key_PT + random.random(key_PT.shape), axis=1, kind="stable")
        drawn_PT = np.full_like(values_PT, np.nan)
        np.put_along_axis(
            drawn_PT, place_PT, np.take_along_axis(values_PT, dealt_PT, axis=1), axis=1
        )
        hits_K += _relative(drawn_PT, groups) >= observed_K - 1e-12
    return np.where(np.isnan(observed_K), 1.0, (1 + hits_K) / (1 + DRAWS))


def _relative(values_PT: Array, groups: Sequence[Sequence[int]]) -> Array:
    """Return the likeness to each group's likest member, less the mean over all groups `[K]`."""
    mean_T = means(values_PT)
    filled_T = np.nan_to_num(mean_T, nan=-np.inf)
    best_K = np.array([filled_T[list(group)].max() for group in groups])
    best_K = np.where(np.isinf(best_K), np.nan, best_K)
    return np.asarray(best_K - np.nanmean(best_K), dtype=np.float64)


def result(p_value: float, prompts: int) -> ProbeResult:
    """Return what the report says of one group."""
    return ProbeResult(
        probe=NAME,
        needs="text",
        verdict=Verdict.INCONCLUSIVE,
        reason=f"with teachers dealt out anew, {p_value:.1%} of dealings reach this likeness",
        null=NULL,
        unit=UNIT,
        n_prompts=prompts,
        p_value=p_value,
        cannot_say=CANNOT_SAY,
    )
