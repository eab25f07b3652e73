"""The student's last hidden state, through a trained projector, against the teacher's.

Shapes: N positions, M that count, D and T hidden sizes of student and teacher.
"""

from typing import Literal

import torch


def hidden_match(
    kind: Literal["hidden_mse", "hidden_cosine"],
    hidden_ND: torch.Tensor,
    projector_TD: torch.Tensor,
    states_NT: torch.Tensor,
    kept_M: torch.Tensor,
) -> torch.Tensor:
    """Return the mean over counted positions, a scalar with gradients for student and projector.

    `hidden_mse` is the squared difference, a mean over T too; `hidden_cosine` is one minus the
    cosine, from 0 to 2, and 1 where either side is 0. Computed in the student's dtype; 0 where
    nothing counts.
    """
    made_MT = hidden_ND[kept_M] @ projector_TD.t()
    states_MT = states_NT[kept_M].detach().to(made_MT.dtype)
    if kind == "hidden_mse":
        apart_M = (made_MT - states_MT).square().mean(-1)
    else:
        apart_M = 1 - torch.cosine_similarity(made_MT, states_MT, dim=-1)
    return apart_M.sum() / max(len(kept_M), 1)
