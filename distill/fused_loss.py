"""Forward KL to a sparse teacher plus cross-entropy, without ever holding `[N, V]` logits.

Both terms are cross-entropies against sparse targets, so one softmax serves them: with weights
w = a * teacher + b * one-hot, the loss of a row is sum(w) * logsumexp(z) - sum_k w_k z_k and its
gradient sum(w) * softmax(z) - w. The gradient is taken tile by tile in the forward pass and the
tile of logits thrown away (the idea of Liger-Kernel's fused linear losses, arXiv 2410.10989).
Masked positions are left out before the first product.

Shapes: N positions, M unmasked positions, D hidden size, V vocabulary, K sparse entries a row.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from distill.signals import Sparse

# Elements of one tile of logits, 128 MiB in float32: the head's gradient is added to once a tile,
# so few large tiles are quicker than many small ones.
TILE_ELEMENTS = 2**25


class Loss(NamedTuple):
    """The loss to call `backward` on, and its two terms, means over unmasked positions in nats.

    Attributes:
        total: scalar with a gradient.
        forward_kl: scalar, or None without a teacher's signal.
        cross_entropy: scalar.
    """

    total: torch.Tensor
    forward_kl: torch.Tensor | None
    cross_entropy: torch.Tensor


def distillation_loss(
    hidden_ND: torch.Tensor,
    head_VD: torch.Tensor,
    labels_N: torch.Tensor,
    kept_M: torch.Tensor,
    signal: Sparse | None,
    *,
    kl_weight: float,
    ce_weight: float,
    dtype: torch.dtype,
) -> Loss:
    """Return `kl_weight * KL(teacher || student) + ce_weight * cross-entropy`.

    Args:
        hidden_ND: the student's last hidden states.
        head_VD: its output projection.
        labels_N: int64, the true next tokens.
        kept_M: int64 indices of the positions that count, known on the host, so no device waits.
        signal: the teacher's signals at all N positions, or None for cross-entropy alone.
        kl_weight: a of the formula above; must be 0 without a signal.
        ce_weight: b of the formula above.
        dtype: of the matrix products; sums and the softmax are float32 (float64 for float64).
    """
    assert signal is not None or kl_weight == 0
    labels_M = labels_N[kept_M]
    if signal is None:
        ids_MK, soft_MK = labels_M[:, None], None
    else:
        ids_NK, soft_NK = signal.targets()
        ids_MK, soft_MK = torch.cat([ids_NK[kept_M], labels_M[:, None]], 1), soft_NK[kept_M]
    total, soft, hard = _Fused.apply(
        hidden_ND[kept_M], head_VD, ids_MK, soft_MK, kl_weight, ce_weight, dtype
    )
    if signal is None:
        return Loss(total, None, hard)
    entropy = signal.entropy_N[kept_M].mean()
    return Loss(total - kl_weight * entropy, soft - entropy, hard)


class _Fused(torch.autograd.Function):
    """The tiles: (loss without the teacher's entropy, soft term, hard term), means over M."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: torch.Tensor,
        head_VD: torch.Tensor,
        ids_MK: torch.Tensor,
        soft_MK: torch.Tensor | None,
        kl_weight: float,
        ce_weight: float,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, vocab = hidden_MD.shape[0], head_VD.shape[0]
        wide = torch.float64 if hidden_MD.dtype == torch.float64 else torch.float32
        low_MD, low_VD = hidden_MD.detach().to(dtype), head_VD.detach().to(dtype)
        grad_MD = torch.empty_like(low_MD, dtype=wide)
        grad_VD = torch.zeros_like(low_VD, dtype=wide)
        soft = torch.zeros((), dtype=wide, device=hidden_MD.device)
        hard = torch.zeros_like(soft)
        tile = min(rows, max(1, TILE_ELEMENTS // vocab))
        low_TV = torch.empty(tile, vocab, dtype=dtype, device=hidden_MD.device)
        wide_TV = low_TV if dtype == wide else torch.empty_like(low_TV, dtype=wide)
        for start in range(0, rows, tile):
            part = slice(start, min(start + tile, rows))
            z_TV, p_TV = low_TV[: part.stop - start], wide_TV[: part.stop - start]
            torch.mm(low_MD[part], low_VD.t(), out=z_TV)
            if p_TV is not z_TV:
                p_TV.copy_(z_TV)
            ids_TK = ids_MK[part]
            picked_TK = p_TV.gather(1, ids_TK)
            lse_T1 = _softmax_in_place(p_TV)
            nll_TK = lse_T1 - picked_TK
            hard += nll_TK[:, -1].sum()
            weights_TK = torch.full_like(picked_TK, ce_weight)
            if soft_MK is not None:
                soft_TK = soft_MK[part].to(wide)
                soft += (soft_TK * nll_TK[:, :-1]).sum()
                weights_TK[:, :-1] = kl_weight * soft_TK
            p_TV.mul_(weights_TK.sum(1, keepdim=True)).scatter_add_(1, ids_TK, -weights_TK)
            if p_TV is not z_TV:
                z_TV.copy_(p_TV)
            grad_MD[part] = torch.mm(z_TV, low_VD)
            grad_VD += torch.mm(z_TV.t(), low_MD[part])
        ctx.save_for_backward(grad_MD.div_(rows), grad_VD.div_(rows))
        ctx.dtypes = hidden_MD.dtype, head_VD.dtype
        soft, hard = soft / rows, hard / rows
        ctx.mark_non_differentiable(soft, hard)
        return kl_weight * soft + ce_weight * hard, soft, hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_MD, grad_VD = ctx.saved_tensors
        hidden_dtype, head_dtype = ctx.dtypes
        scale = grads[0]
        return (
            (grad_MD * scale).to(hidden_dtype),
            (grad_VD * scale).to(head_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _softmax_in_place(z_TV: torch.Tensor) -> torch.Tensor:
    """Turn logits into probabilities in place; return their logsumexp `[T, 1]`."""
    top_T1 = z_TV.amax(-1, keepdim=True)
    z_TV.sub_(top_T1).exp_()
    sum_T1 = z_TV.sum(-1, keepdim=True)
    z_TV.div_(sum_T1)
    return top_T1 + sum_T1.log()
