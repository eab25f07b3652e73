"""Whose group would a classifier take the suspect for? A closed set, so it always names someone.

A logistic regression on words of answers learns to tell the groups of teachers apart at half of
the prompts and reads the suspect at the other half, and the reverse, so that no prompt is learnt
and read. What it calls teachers' own answers that it did not learn from is printed beside it. It
corroborates and decides nothing: added to the score that decides it made answers of people look
like those of teachers more often than it found students (docs/findings.md).

Shapes: P prompts, T teachers, K groups, W hashed words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from sklearn.linear_model import SGDClassifier

from audit.evidence import ProbeResult, Verdict
from audit.lineup.standing import Array

NAME = "attribution"
UNIT = "share of answers"
NULL = "None that is tested: a model that no group taught is attributed to some group, too."
CANNOT_SAY = (
    "It chooses among the bank's groups, so a model of none of them is attributed all the same.",
)
_EPOCHS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Attributed:
    """To which groups a classifier attributes answers.

    Attributes:
        share_K: of the suspect's answers, to each group.
        right_K: of each group's own answers that were not learnt, to it.
        prompts: of the suspect's that were read.
    """

    share_K: Array
    right_K: Array
    prompts: int


def attribute(
    teachers: sparse.csr_matrix,
    group_T: Sequence[int],
    suspect: sparse.csr_matrix,
    *,
    seed: int,
) -> Attributed | None:
    """Return whose the suspect's answers look like, cross-fitted over two halves of the prompts.

    Args:
        teachers: vectors of answers, T times P rows, a teacher's together.
        group_T: the group of each teacher, from 0.
        suspect: vectors `[P, W]`; of an answer that is not read, zero.
        seed: of the order in which answers are learnt.

    Returns:
        None where there is one group alone, or nothing to read.
    """
    groups, count = max(group_T) + 1, suspect.shape[0]
    label_R = np.repeat(np.asarray(group_T), count)
    prompt_R = np.tile(np.arange(count), len(group_T))
    there_R = np.diff(teachers.indptr) > 0
    mine_P = np.diff(suspect.indptr) > 0
    if groups < 2 or not mine_P.any() or len(np.unique(label_R[there_R])) < groups:
        return None
    share_K, right_K, own_K = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    for half in (0, 1):
        learnt_R = there_R & (prompt_R % 2 != half)
        read_R = there_R & (prompt_R % 2 == half)
        if len(np.unique(label_R[learnt_R])) < groups or not read_R.any():
            return None
        model = SGDClassifier(
            loss="log_loss",
            alpha=1e-6,
            max_iter=_EPOCHS,
            tol=None,
            average=True,
            class_weight="balanced",
            random_state=seed,
        ).fit(teachers[learnt_R], label_R[learnt_R])
        named_R = model.predict(teachers[read_R])
        own_K += np.bincount(label_R[read_R], minlength=groups)
        right_K += np.bincount(label_R[read_R][named_R == label_R[read_R]], minlength=groups)
        rows_P = mine_P & (np.arange(count) % 2 == half)
        if rows_P.any():
            share_K += np.bincount(model.predict(suspect[rows_P]), minlength=groups)
    total = int(mine_P.sum())
    return Attributed(
        share_K=share_K / total, right_K=right_K / np.maximum(own_K, 1), prompts=total
    )


def result(found: Attributed | None, group: int, view: str) -> ProbeResult:
    """Return what the report says of one group.

    Args:
        found: of all groups, or None.
        group: which.
        view: what was read.
    """
    if found is None:
        return _result(Verdict.INSUFFICIENT, "there are no two groups to choose from", view, 0)
    rank = 1 + int((found.share_K > found.share_K[group]).sum())
    reason = (
        f"{found.share_K[group]:.0%} of its answers are taken for this group's, and "
        f"{found.right_K[group]:.0%} of the group's own"
    )
    return replace(
        _result(Verdict.INCONCLUSIVE, reason, view, found.prompts),
        score=float(found.share_K[group]),
        rank=rank,
        rank_of=len(found.share_K),
    )


def _result(verdict: Verdict, reason: str, view: str, count: int) -> ProbeResult:
    return ProbeResult(
        probe=f"{NAME}, {view}",
        needs="text",
        verdict=verdict,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=count,
        cannot_say=CANNOT_SAY,
    )
