"""Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), computed in float32.

Shapes: `...` any leading dimensions, F features.
"""

import torch
import torch.nn.functional as F
from torch import nn


def widened(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in at least float32, the dtype of every sum in this package."""
    return x.float() if x.element_size() < 4 else x


def inverse_rms(x_F: torch.Tensor, eps: float) -> torch.Tensor:
    """Return 1 / rms of the last dimension, `[..., 1]`, in at least float32."""
    wide_F = widened(x_F)
    return (wide_F * wide_F).sum(-1, keepdim=True).mul(1 / x_F.shape[-1]).add(eps).rsqrt()


def unit_rms(x_F: torch.Tensor, eps: float) -> torch.Tensor:
    """Return `[..., F]` scaled to root mean square 1, without a weight, in the dtype of `x_F`."""
    return F.rms_norm(widened(x_F), x_F.shape[-1:], None, eps).to(x_F.dtype)


class RMSNorm(nn.Module):
    """Scale vectors to root mean square 1, times a learned weight a feature."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_F: torch.Tensor) -> torch.Tensor:
        """Return `[..., F]` in the dtype of `x_F`."""
        weight_F = widened(self.weight)
        return F.rms_norm(widened(x_F), weight_F.shape, weight_F, self.eps).to(x_F.dtype)
