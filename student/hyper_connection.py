"""Manifold-constrained hyper-connections: a residual of several streams, mixed without growth.

DeepSeek-V4 report, section 2.2 (mHC: Xie et al., arXiv 2512.24880). Each sub-layer reads one
weighted sum of the streams (`pre`), writes its output back to all of them (`post`), and the
streams are mixed by a matrix kept doubly stochastic by Sinkhorn's iteration (`comb`). All of it
runs in float32.

The streams are the largest tensor of a layer, and what a sub-layer does with them is nothing but
reading and writing memory. So both ways are functions of their own, which make no second tensor
of that size: what reaches the streams' gradient is summed in one buffer.

Shapes: N tokens, M streams, D hidden_size, W = M D, J mixing numbers a token: M (M + 2) in a
layer, M in the last reading; G of them gates, C = M M of mixing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from student import device as devices
from student.config import V4Config
from student.norm import inverse_rms, widened
from student.sinkhorn import sinkhorn


class Mixing(NamedTuple):
    """What a hyper-connection makes of the streams.

    Attributes:
        input_ND: the one stream its sub-layer reads.
        post_NM: weight of the sub-layer's output in each stream.
        comb_NMM: entry [j, k] is the weight of old stream j in new stream k.
        streams_NMD: the old streams, to be mixed by `expand`.
    """

    input_ND: torch.Tensor
    post_NM: torch.Tensor
    comb_NMM: torch.Tensor
    streams_NMD: torch.Tensor


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
        _keep(self, part_J=[0] * m + [1] * m + [2] * m * m)
        _keep(self, floor_G=[self.eps] * m + [0.0] * m, factor_G=[1.0] * m + [2.0] * m)

    def forward(self, streams_NMD: torch.Tensor) -> Mixing:
        """Return what the sub-layer reads, and how its output is to be mixed back."""
        m = self.streams
        with devices.full_precision(streams_NMD.device):
            scale_J = self.scale.index_select(0, self.get_buffer("part_J"))
            input_ND, post_NM, logit_NC, streams_NMD = read(streams_NMD, _reading(self, scale_J))
            comb_NMM = torch.softmax(logit_NC.view(-1, m, m), -1)
            comb_NMM = sinkhorn(comb_NMM, self.iterations, self.eps)
            return Mixing(input_ND, post_NM, comb_NMM, streams_NMD)


class StreamHead(nn.Module):
    """The last reading: all streams into one, before the final norm."""

    def __init__(self, config: V4Config) -> None:
        super().__init__()
        m = config.hc_streams
        self.norm_eps = config.rms_norm_eps
        self.fn = nn.Parameter(torch.empty(m, m * config.hidden_size))
        self.base = nn.Parameter(torch.empty(m))
        self.scale = nn.Parameter(torch.empty(1))
        _keep(self, floor_G=[config.hc_eps] * m, factor_G=[1.0] * m)

    def forward(self, streams_NMD: torch.Tensor) -> torch.Tensor:
        """Return `[N, D]`."""
        with devices.full_precision(streams_NMD.device):
            scale_J = self.scale.expand(len(self.base))
            return read(streams_NMD, _reading(self, scale_J)).input_ND


def _keep(module: nn.Module, **values: Sequence[float]) -> None:
    """Register constants that follow the module to its device and are not saved."""
    for name, value in values.items():
        module.register_buffer(name, torch.tensor(value), persistent=False)


class Reading(NamedTuple):
    """The weights of a reading, G of whose numbers are gates: M to read and, but last, M to write.

    Attributes:
        fn_JW: the projection of the joined streams.
        base_J: added to it.
        scale_J: multiplied with it.
        floor_G: the least value of each gate.
        factor_G: the greatest, less that.
        norm_eps: added to the streams' mean square.
    """

    fn_JW: torch.Tensor
    base_J: torch.Tensor
    scale_J: torch.Tensor
    floor_G: torch.Tensor
    factor_G: torch.Tensor
    norm_eps: float


def _reading(module: "HyperConnection | StreamHead", scale_J: torch.Tensor) -> Reading:
    floor_G, factor_G = module.get_buffer("floor_G"), module.get_buffer("factor_G")
    return Reading(module.fn, module.base, scale_J, floor_G, factor_G, module.norm_eps)


class Read(NamedTuple):
    """What is made of the streams before Sinkhorn's iteration.

    Attributes:
        input_ND: the sum a sub-layer reads, in the dtype of the streams.
        post_NM: the gates to write with, in at least float32; empty in the last reading.
        logit_NC: the M M numbers of mixing, likewise.
        streams_NMD: the streams again. Whoever uses them after this reading should use these:
            their gradient then comes back through one sum.
    """

    input_ND: torch.Tensor
    post_NM: torch.Tensor
    logit_NC: torch.Tensor
    streams_NMD: torch.Tensor


def read(streams_NMD: torch.Tensor, how: Reading) -> Read:
    """Project the streams (equations 3 to 5) and sum them by the first M gates.

    The projection is `scale * (fn @ rms_norm(streams)) + base`; gates are sigmoids of it.
    """
    if torch.is_grad_enabled():
        return Read(*_Read.apply(streams_NMD, *how))
    m, gates = streams_NMD.shape[1], len(how.floor_G)
    mix_NJ, _ = _project(streams_NMD, how.fn_JW, how.norm_eps)
    made_NJ = torch.addcmul(how.base_J, mix_NJ, how.scale_J)
    gate_NG = torch.addcmul(how.floor_G, torch.sigmoid(made_NJ[:, :gates]), how.factor_G)
    input_ND = _collapse(gate_NG[:, :m], streams_NMD)
    return Read(input_ND, gate_NG[:, m:], made_NJ[:, gates:], streams_NMD)


def expand(mixing: Mixing, output_ND: torch.Tensor) -> torch.Tensor:
    """Return the new streams: the old ones mixed, plus the sub-layer's output in each."""
    streams_NMD = mixing.streams_NMD
    with devices.full_precision(streams_NMD.device):
        dtype = streams_NMD.dtype
        given = mixing.post_NM.to(dtype), mixing.comb_NMM.to(dtype), output_ND.to(dtype)
        if not torch.is_grad_enabled():
            return _mixed(*given, streams_NMD)
        made_NMD: torch.Tensor = _Expand.apply(*given, streams_NMD)
        return made_NMD


def _project(
    streams_NMD: torch.Tensor, fn_JW: torch.Tensor, norm_eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Project the normalised, joined streams `[N, J]`; the norm is a factor `[N, 1]` after it."""
    joined_NW = widened(streams_NMD.flatten(1))
    factor_N1 = inverse_rms(joined_NW, norm_eps)
    return torch.mm(joined_NW, widened(fn_JW).t()).mul_(factor_N1), factor_N1


def _collapse(weight_NM: torch.Tensor, streams_NMD: torch.Tensor) -> torch.Tensor:
    return torch.bmm(weight_NM.to(streams_NMD.dtype).unsqueeze(1), streams_NMD).squeeze(1)


class _Read(torch.autograd.Function):
    """`read` with a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        streams_NMD: torch.Tensor,
        fn_JW: torch.Tensor,
        base_J: torch.Tensor,
        scale_J: torch.Tensor,
        floor_G: torch.Tensor,
        factor_G: torch.Tensor,
        norm_eps: float,
    ) -> tuple[torch.Tensor, ...]:
        m, gates = streams_NMD.shape[1], len(floor_G)
        mix_NJ, rms_N1 = _project(streams_NMD, fn_JW, norm_eps)
        made_NJ = torch.addcmul(base_J, mix_NJ, scale_J)
        open_NG = torch.sigmoid(made_NJ[:, :gates])
        gate_NG = torch.addcmul(floor_G, open_NG, factor_G)
        pre_NM, post_NM = gate_NG[:, :m].contiguous(), gate_NG[:, m:].contiguous()
        ctx.save_for_backward(
            streams_NMD, fn_JW, scale_J, factor_G, mix_NJ, rms_N1, open_NG, pre_NM
        )
        same_NMD = streams_NMD.view_as(streams_NMD)
        return _collapse(pre_NM, streams_NMD), post_NM, made_NJ[:, gates:].contiguous(), same_NMD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        streams_NMD, fn_JW, scale_J, factor_G, mix_NJ, rms_N1, open_NG, pre_NM = ctx.saved_tensors
        dinput_ND, dpost_NM, dlogit_NC, dsame_NMD = grads
        joined_NW = widened(streams_NMD.flatten(1))
        dpre_NM = widened(torch.bmm(streams_NMD, dinput_ND.unsqueeze(-1)).squeeze(-1))
        dgate_NG = torch.cat((dpre_NM, dpost_NM), dim=1) * factor_G
        dmade_NJ = torch.cat((dgate_NG * open_NG * (1 - open_NG), dlogit_NC), dim=1)
        dmix_NJ = dmade_NJ * scale_J
        # mix = rms * (fn @ x): through the product, and through rms = (|x|^2 / W + eps)^-1/2.
        dproduct_NJ = dmix_NJ * rms_N1
        along_N1 = (dmix_NJ * mix_NJ).sum(-1, keepdim=True) * rms_N1.square()
        pre_NM1 = pre_NM.to(streams_NMD.dtype).unsqueeze(-1)
        ds_NMD = torch.baddbmm(dsame_NMD, pre_NM1, dinput_ND.unsqueeze(1))
        ds_NW = widened(ds_NMD.flatten(1)).addmm_(dproduct_NJ, widened(fn_JW))
        ds_NW.addcmul_(joined_NW, along_N1, value=-1 / joined_NW.shape[1])
        ds_NMD = ds_NW.view_as(streams_NMD).to(streams_NMD.dtype)
        dfn_JW = torch.mm(dproduct_NJ.t(), joined_NW)
        dbase_J, dscale_J = dmade_NJ.sum(0), (dmade_NJ * mix_NJ).sum(0)
        dtype = fn_JW.dtype
        weights = dfn_JW.to(dtype), dbase_J.to(dtype), dscale_J.to(dtype)
        return ds_NMD, *weights, None, None, None


class _Expand(torch.autograd.Function):
    """`expand` with a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        post_NM: torch.Tensor,
        comb_NMM: torch.Tensor,
        output_ND: torch.Tensor,
        streams_NMD: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(post_NM, comb_NMM, output_ND, streams_NMD)
        return _mixed(post_NM, comb_NMM, output_ND, streams_NMD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        post_NM, comb_NMM, output_ND, streams_NMD = ctx.saved_tensors
        (g_NMD,) = grads
        dpost_NM = torch.bmm(g_NMD, output_ND.unsqueeze(-1)).squeeze(-1)
        dcomb_NMM = torch.bmm(streams_NMD, g_NMD.transpose(1, 2))
        doutput_ND = torch.bmm(post_NM.unsqueeze(1), g_NMD).squeeze(1)
        return dpost_NM, dcomb_NMM, doutput_ND, torch.bmm(comb_NMM, g_NMD)


def _mixed(
    post_NM: torch.Tensor,
    comb_NMM: torch.Tensor,
    output_ND: torch.Tensor,
    streams_NMD: torch.Tensor,
) -> torch.Tensor:
    new_NMD = torch.bmm(comb_NMM.transpose(1, 2), streams_NMD)
    return new_NMD.addcmul_(post_NM.unsqueeze(-1), output_ND.unsqueeze(1))
