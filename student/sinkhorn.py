"""Sinkhorn's iteration, which makes a positive matrix doubly stochastic.

DeepSeek-V4 report, equation 8 (mHC: Xie et al., arXiv 2512.24880), in the order its released
kernel takes: columns first and last.

Shapes: N tokens, M streams.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from student import device as devices


def sinkhorn(share_NMM: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
    """Return `share_NMM + eps`, which is positive, made doubly stochastic, `[N, M, M]`.

    Columns and rows are normalised in turn; `iterations` counts the columns' turns. Columns end
    with a sum of 1 within a few eps; rows as far as the turns have converged: twenty bring them
    within 1e-5 for logits of spread one half, and within 0.1 for saturated ones.
    """
    if torch.is_grad_enabled() and share_NMM.requires_grad:
        result: torch.Tensor = _Sinkhorn.apply(share_NMM, iterations, eps)
        return result
    # Without a gradient to carry back, turns that no longer change anything may be left out.
    look = devices.waits_are_free(share_NMM.device)
    x_MMN, _ = _normalise(share_NMM, iterations, eps, until_still=look)
    return x_MMN.permute(2, 0, 1).contiguous()


def _normalise(
    share_NMM: torch.Tensor, iterations: int, eps: float, *, until_still: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the matrices `[M, M, N]`, token last so that sums run over vectors, and all sums."""
    tokens, m, _ = share_NMM.shape
    # A margin of eps on both sides: a sum that takes it in is the sum plus eps.
    framed = share_NMM.new_full((m + 1, m + 1, tokens), eps)
    x_MMN, both = framed[:m, :m], (framed[:, :m], framed[:m])
    x_MMN += share_NMM.permute(1, 2, 0)
    rounding = 2 * torch.finfo(share_NMM.dtype).eps
    sums: list[torch.Tensor] = []
    for step in range(2 * iterations - 1):
        total = both[step % 2].sum(step % 2, keepdim=True)
        x_MMN.div_(total)
        sums.append(total)
        # Columns that sum to 1 right after the rows were normalised: nothing moves any more.
        if until_still and step % 8 == 6:
            low, high = torch.aminmax(total)
            if 1 - rounding <= float(low) and float(high) <= 1 + rounding:
                break
    return x_MMN, sums


class _Sinkhorn(torch.autograd.Function):
    """The same with a gradient: only the sums are kept, and divisions are undone one by one."""

    @staticmethod
    def forward(ctx: Any, share_NMM: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
        x_MMN, sums = _normalise(share_NMM, iterations, eps, until_still=False)
        ctx.save_for_backward(x_MMN, *sums)
        return x_MMN.permute(2, 0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y_MMN, *sums = ctx.saved_tensors
        y_MMN = y_MMN.clone()
        g_MMN = grads[0].permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
        for step in range(len(sums) - 1, -1, -1):
            g_MMN.sub_((g_MMN * y_MMN).sum(step % 2, keepdim=True)).div_(sums[step])
            y_MMN.mul_(sums[step])
        return g_MMN.permute(2, 0, 1), None, None
