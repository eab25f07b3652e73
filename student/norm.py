"""Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), computed in float32.

Shapes: `...` any leading dimensions, F features, R all rows of the leading dimensions.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


def widened(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in at least float32, the dtype of every sum in this package."""
    return x.float() if x.element_size() < 4 else x


def inverse_rms(x_F: torch.Tensor, eps: float) -> torch.Tensor:
    """Return 1 / rms of the last dimension, `[..., 1]`, in at least float32."""
    norm_1 = torch.linalg.vector_norm(widened(x_F), dim=-1, keepdim=True)
    # eps + norm^2 / F in one call: a number beside a tensor costs as much as the operation.
    return torch.rsub(norm_1.mul_(norm_1), eps, alpha=-1 / x_F.shape[-1]).rsqrt_()


def unit_rms(x_F: torch.Tensor, eps: float) -> torch.Tensor:
    """Return `[..., F]` scaled to root mean square 1, without a weight, in the dtype of `x_F`."""
    return _scaled(x_F, None, eps)


class RMSNorm(nn.Module):
    """Scale vectors to root mean square 1, times a learned weight a feature."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_F: torch.Tensor) -> torch.Tensor:
        """Return `[..., F]` in the dtype of `x_F`."""
        return _scaled(x_F, self.weight, self.eps)


def _scaled(x_F: torch.Tensor, weight_F: torch.Tensor | None, eps: float) -> torch.Tensor:
    if torch.is_grad_enabled():
        made_F: torch.Tensor = _RMSNorm.apply(x_F, weight_F, eps)
        return made_F
    return _product(x_F, inverse_rms(x_F, eps), weight_F)


def _product(
    x_F: torch.Tensor, factor_1: torch.Tensor, weight_F: torch.Tensor | None
) -> torch.Tensor:
    y_F = widened(x_F) * factor_1
    return (y_F if weight_F is None else y_F.mul_(weight_F)).to(x_F.dtype)


class _RMSNorm(torch.autograd.Function):
    """The norm with a gradient; only the input and a factor a row are kept."""

    @staticmethod
    def forward(
        ctx: Any, x_F: torch.Tensor, weight_F: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        factor_1 = inverse_rms(x_F, eps)
        ctx.save_for_backward(x_F, weight_F, factor_1)
        return _product(x_F, factor_1, weight_F)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_F, weight_F, factor_1 = ctx.saved_tensors
        features, dtype = x_F.shape[-1], x_F.dtype
        x_RF, g_RF = (widened(given).reshape(-1, features) for given in (x_F, grads[0]))
        factor_R1 = factor_1.reshape(-1, 1)
        both_RF, dweight_F = g_RF * x_RF, None
        if weight_F is None:
            along_R1, dx_RF = both_RF.sum(-1, keepdim=True), g_RF * factor_R1
        else:
            wide_F = widened(weight_F)
            along_R1, dx_RF = torch.mv(both_RF, wide_F).unsqueeze(-1), (g_RF * wide_F)
            dx_RF.mul_(factor_R1)
            dweight_F = torch.mv(both_RF.t(), factor_R1.squeeze(-1)).to(weight_F.dtype)
        # The factor falls as the row grows: d factor / d x = -factor^3 x / F.
        dx_RF.addcmul_(x_RF, along_R1 * factor_R1.pow(3), value=-1 / features)
        return dx_RF.view_as(x_F).to(dtype), dweight_F, None
