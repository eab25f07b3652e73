"""What cutting took away, given back as far as the layers that write the residual can.

Layer by layer, on what the student's own layers before it make of a text, the matrix that writes
to the residual is fitted again, so that student and teacher leave the layer with the same residual:
linear least squares with a ridge towards the teacher's matrix. As each fit sees the errors of those
before, it takes them back instead of adding its own (as sequential reconstruction in SparseGPT,
arXiv 2301.00774, and minimised output error in MHA2MLA-VLM, arXiv 2601.11464).

Shapes: N tokens, D hidden size, F what a matrix reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from student.block import MLABlock
from student.documents import Documents
from student.mla import MLAPositions
from student.model import Student
from student.moe import Mixture, SwiGLU
from student.warm_start.calibration import Seen, product


@dataclass(frozen=True, kw_only=True, slots=True)
class Ridge:
    """How strongly fitted matrices are held to the teacher's, in mean squares of what they read."""

    attention: float = 0.1
    network: float = 1.0


@torch.no_grad()
def compensate(
    student: Student,
    seen: Seen,
    ridge: Ridge,
    *,
    tell: Callable[[int, int], None] = lambda done, layers: None,
) -> None:
    """Fit what writes to the residual, in place.

    Args:
        student: begun with the teacher's weights, in float32; its layers answer the teacher's.
        seen: what the teacher's layers read and left on a text.
        ridge: of the two fits a layer.
        tell: told after each layer how many are done, of how many.
    """
    windows, tokens = seen.token_BS.shape
    token_N = seen.token_BS.flatten()
    positions = student.positions(Documents([tokens] * windows, student.device))
    assert isinstance(positions, MLAPositions)
    state_ND = student.embed(token_N)
    for number, block in enumerate(student.layers):
        assert isinstance(block, MLABlock)
        attn, after_ND = block.attn, seen.before[number + 1]
        read_NF = _read_by(attn.o, attn, block.attn_norm(state_ND), positions)
        fit(attn.o, read_NF, seen.middle[number] - state_ND, ridge.attention)
        state_ND = state_ND + attn.o(read_NF)
        x_ND = block.ffn_norm(state_ND)
        network = block.ffn
        if isinstance(network, Mixture):  # of which what serves every token is fitted
            mixed = network(x_ND, token_N, expert_NK=None, balanced_over=None)
            state_ND = state_ND + mixed.output_ND - network.shared(x_ND)
            network = network.shared
        state_ND = state_ND + _through(network, x_ND, after_ND - state_ND, ridge.network)
        tell(number + 1, len(student.layers))


def _through(
    network: SwiGLU, x_ND: torch.Tensor, wanted_ND: torch.Tensor, ridge: float
) -> torch.Tensor:
    """Fit the last matrix of a network to leave `wanted_ND`; return what it leaves."""
    read_NI = F.silu(network.gate(x_ND)) * network.up(x_ND)
    fit(network.down, read_NI, wanted_ND, ridge)
    return network.down(read_NI)


def _read_by(
    module: nn.Module, within: nn.Module, x_ND: torch.Tensor, positions: MLAPositions
) -> torch.Tensor:
    """Return what a module reads while another, which holds it, runs."""
    kept: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        within(x_ND, positions)
    finally:
        hook.remove()
    return kept[0]


def fit(linear: nn.Linear, read_NF: torch.Tensor, wanted_ND: torch.Tensor, ridge: float) -> None:
    """Move a matrix to make `wanted_ND` of `read_NF`, held to what it is by a ridge; in place."""
    missing_ND = wanted_ND - linear(read_NF)
    moment_FF = product(read_NF, read_NF)
    held = ridge * float(moment_FF.diagonal().mean()) + 1e-30
    moment_FF.diagonal().add_(held)
    moved_FD = torch.linalg.solve(moment_FF, product(read_NF, missing_ND))
    linear.weight.add_(moved_FD.T.to(linear.weight.dtype))
