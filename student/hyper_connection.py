"""Manifold-constrained hyper-connections: a residual of several streams, mixed without growth.

DeepSeek-V4 report, section 2.2 (mHC: Xie et al., arXiv 2512.24880). Each sub-layer reads one
weighted sum of the streams (`pre`), writes its output back to all of them (`post`), and the
streams are mixed by a matrix kept doubly stochastic by Sinkhorn's iteration (`comb`). All of it
runs in float32.

Shapes: N tokens, M streams, D hidden_size, J = M (M + 2) mixing numbers a token.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from student import device as devices
from student.config import V4Config
from student.norm import inverse_rms, widened


def sinkhorn(start_NMM: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
    """Return positive matrices made doubly stochastic, `[N, M, M]`.

    Columns and rows are normalised in turn, columns first and last (equation 8 of the report, in
    the order its released kernel takes); `iterations` counts the columns' turns. Columns end with
    a sum of 1 within a few eps; rows as far as the turns have converged: twenty bring them within
    1e-5 for logits of spread one half, and within 0.1 for saturated ones.
    """
    if torch.is_grad_enabled() and start_NMM.requires_grad:
        result: torch.Tensor = _Sinkhorn.apply(start_NMM, iterations, eps)
        return result
    # Without a gradient to carry back, turns that no longer change anything may be left out.
    look = devices.waits_are_free(start_NMM.device)
    x_MMN, _ = _normalise(start_NMM, iterations, eps, until_still=look)
    return x_MMN.permute(2, 0, 1).contiguous()


def _normalise(
    start_NMM: torch.Tensor, iterations: int, eps: float, *, until_still: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the matrices `[M, M, N]`, token last so that sums run over vectors, and all sums."""
    tokens, m, _ = start_NMM.shape
    # A margin of eps on both sides: a sum that takes it in is the sum plus eps.
    framed = start_NMM.new_full((m + 1, m + 1, tokens), eps)
    x_MMN = framed[:m, :m]
    x_MMN.copy_(start_NMM.permute(1, 2, 0))
    both = framed[:, :m], framed[:m]
    rounding = 2 * torch.finfo(start_NMM.dtype).eps
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
    def forward(ctx: Any, start_NMM: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
        x_MMN, sums = _normalise(start_NMM, iterations, eps, until_still=False)
        ctx.save_for_backward(x_MMN, *sums)
        return x_MMN.permute(2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y_MMN, *sums = ctx.saved_tensors
        y_MMN = y_MMN.clone()
        g_MMN = grads[0].permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
        for step in range(len(sums) - 1, -1, -1):
            g_MMN.sub_((g_MMN * y_MMN).sum(step % 2, keepdim=True)).div_(sums[step])
            y_MMN.mul_(sums[step])
        return g_MMN.permute(2, 0, 1), None, None


class Mixing(NamedTuple):
    """What a hyper-connection makes of the streams.

    Attributes:
        input_ND: the one stream its sub-layer reads.
        post_NM: weight of the sub-layer's output in each stream.
        comb_NMM: entry [j, k] is the weight of old stream j in new stream k.
    """

    input_ND: torch.Tensor
    post_NM: torch.Tensor
    comb_NMM: torch.Tensor


class HyperConnection(nn.Module):
    """Weights of one sub-layer's reading, writing and mixing (equations 1 to 8)."""

    def __init__(self, config: V4Config) -> None:
        super().__init__()
        m = config.hc_streams
        self.streams, self.eps = m, config.hc_eps
        self.iterations, self.norm_eps = config.hc_sinkhorn_iterations, config.rms_norm_eps
        self.fn = nn.Parameter(torch.empty((2 + m) * m, m * config.hidden_size))
        self.base = nn.Parameter(torch.empty((2 + m) * m))
        self.scale = nn.Parameter(torch.empty(3))
        part_J = torch.tensor([0] * m + [1] * m + [2] * m * m)
        self.register_buffer("part_J", part_J, persistent=False)

    def forward(self, streams_NMD: torch.Tensor) -> Mixing:
        """Return what the sub-layer reads, and how its output is to be mixed back."""
        m = self.streams
        with devices.full_precision(streams_NMD.device):
            mixes_NJ = _mixes(streams_NMD, self.fn, self.norm_eps)
            scale_J = self.scale.index_select(0, self.get_buffer("part_J"))
            mixes_NJ = torch.addcmul(self.base, mixes_NJ, scale_J)
            gate_NJ = torch.sigmoid(mixes_NJ[:, : 2 * m])
            pre_NM, post_NM = gate_NJ[:, :m] + self.eps, 2 * gate_NJ[:, m:]
            comb_NMM = mixes_NJ[:, 2 * m :].unflatten(-1, (m, m))
            comb_NMM = torch.softmax(comb_NMM, dim=-1) + self.eps
            comb_NMM = sinkhorn(comb_NMM, self.iterations, self.eps)
            return Mixing(_collapse(pre_NM, streams_NMD), post_NM, comb_NMM)


def expand(mixing: Mixing, output_ND: torch.Tensor, streams_NMD: torch.Tensor) -> torch.Tensor:
    """Return the new streams: the old ones mixed, plus the sub-layer's output in each."""
    with devices.full_precision(streams_NMD.device):
        post_NM1 = mixing.post_NM.to(streams_NMD.dtype).unsqueeze(-1)
        comb_NMM = mixing.comb_NMM.to(streams_NMD.dtype).transpose(1, 2)
        written_NMD = post_NM1 * output_ND.to(streams_NMD.dtype).unsqueeze(1)
        return torch.bmm(comb_NMM, streams_NMD) + written_NMD


class StreamHead(nn.Module):
    """The last reading: all streams into one, before the final norm."""

    def __init__(self, config: V4Config) -> None:
        super().__init__()
        m = config.hc_streams
        self.eps, self.norm_eps = config.hc_eps, config.rms_norm_eps
        self.fn = nn.Parameter(torch.empty(m, m * config.hidden_size))
        self.base = nn.Parameter(torch.empty(m))
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, streams_NMD: torch.Tensor) -> torch.Tensor:
        """Return `[N, D]`."""
        with devices.full_precision(streams_NMD.device):
            mixes_NM = _mixes(streams_NMD, self.fn, self.norm_eps)
            pre_NM = torch.sigmoid(mixes_NM * self.scale + self.base) + self.eps
            return _collapse(pre_NM, streams_NMD)


def _mixes(streams_NMD: torch.Tensor, fn_JF: torch.Tensor, eps: float) -> torch.Tensor:
    """Project the normalised, joined streams; the norm is a factor, so it comes after."""
    joined_NF = widened(streams_NMD.flatten(1))
    return F.linear(joined_NF, fn_JF) * inverse_rms(joined_NF, eps)


def _collapse(weight_NM: torch.Tensor, streams_NMD: torch.Tensor) -> torch.Tensor:
    return torch.bmm(weight_NM.to(streams_NMD.dtype).unsqueeze(1), streams_NMD).squeeze(1)
