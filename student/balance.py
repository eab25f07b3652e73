"""Keep the experts evenly loaded by a bias on their choice, and say how evenly they are.

After each step the routing bias moves by a fixed speed towards the mean load (DeepSeek-V3 report,
arXiv 2412.19437, section 2.1.2; Wang et al., arXiv 2408.15664). It steers which experts are
chosen, never how much they count, is kept in float32 and is no parameter of an optimizer; the
sequence-wise loss that goes with it is `student.moe.balance_loss`.

Shapes: E routed experts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from student.model import Student
from student.moe import Mixture, Router

Loads = Sequence[torch.Tensor | None]


class Balanced(NamedTuple):
    """One mixture layer with a learned choice, and the tokens its experts were given."""

    router: Router
    load_E: torch.Tensor


def _learned(student: Student, loads: Loads) -> Iterator[Balanced]:
    # Prediction layers come last, and have no load where they did not run.
    for block, load_E in zip(student.blocks(), loads, strict=False):
        if load_E is not None and isinstance(block.ffn, Mixture):
            if isinstance(block.ffn.router, Router):
                yield Balanced(block.ffn.router, load_E)


@torch.no_grad()
def update_bias(student: Student, loads: Loads, speed: float) -> None:
    """Raise the bias of underloaded experts by `speed` and lower that of overloaded ones.

    Args:
        student: whose biases move.
        loads: of one optimizer step, from `Output.loads`, summed over its micro-batches.
        speed: 0.001 in the reports.
    """
    for router, load_E in _learned(student, loads):
        router.get_buffer("bias").add_(torch.sign(load_E.mean() - load_E), alpha=speed)


def learned_loads(student: Student, loads: Loads) -> list[torch.Tensor]:
    """Return the loads of the layers whose choice is learned, first layer first."""
    return [load_E for _, load_E in _learned(student, loads)]


def shares(loads: Sequence[torch.Tensor]) -> list[list[float]]:
    """Return each expert's share of its layer's tokens, rows that sum to 1, on the host."""
    if not loads:
        return []
    load_LE = torch.stack(list(loads))
    rows: list[list[float]] = (load_LE / load_LE.sum(-1, keepdim=True).clamp_min(1.0)).tolist()
    return rows
