"""Windows of tokens into single entries, by a softmax over the window at each feature.

DeepSeek-V4 report, sections 2.3.1 (equations 9 to 12, overlapping windows) and 2.3.2 (equations
20 to 23, windows side by side). An overlapping entry also draws on the window before its own,
through a second series of values and gates made from the same tokens.

Shapes: N tokens, T entries, C tokens a window, D hidden_size, F features of an entry, S series
(2 with overlap, else 1).
"""

import torch
from torch import nn

from student.documents import Entries
from student.norm import RMSNorm, widened
from student.rotary import Angles, rotate


class Compressor(nn.Module):
    """Makes the compressed entries of one layer, or of its indexer.

    With overlap the first F features of `kv` and `gate` are what a token gives to the entry of
    the next window, the last F what it gives to its own.
    """

    def __init__(
        self, hidden_size: int, width: int, compression: int, eps: float, *, overlap: bool
    ) -> None:
        super().__init__()
        self.width, self.compression, self.overlap = width, compression, overlap
        self.kv = nn.Linear(hidden_size, width * (2 if overlap else 1), bias=False)
        self.gate = nn.Linear(hidden_size, width * (2 if overlap else 1), bias=False)
        self.position_bias = nn.Parameter(torch.empty(compression, self.kv.out_features))
        self.norm = RMSNorm(width, eps)

    def project(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values and gates `[N, S F]`, from which entries are made once a window closes."""
        return self.kv(x_ND), self.gate(x_ND)

    def forward(
        self, value_NF: torch.Tensor, gate_NF: torch.Tensor, entries: Entries, turn: Angles
    ) -> torch.Tensor:
        """Return the entries `[T, F]` of a whole stream, from its tokens' values and gates."""
        value_TCF, gate_TCF = entries.windows(value_NF), entries.windows(gate_NF)
        gate_TCF = gate_TCF + self.position_bias
        if self.overlap:
            value_TCF = _with_previous(value_TCF, self.width)
            gate_TCF = _with_previous(gate_TCF, self.width)
            nothing_T = torch.zeros_like(entries.begins_T, dtype=gate_TCF.dtype)
            nothing_T = nothing_T.masked_fill(entries.begins_T, float("-inf"))
            before = torch.arange(gate_TCF.shape[1], device=gate_TCF.device) < self.compression
            none_TC = torch.where(before, nothing_T[:, None], torch.zeros_like(nothing_T)[:, None])
            gate_TCF = gate_TCF + none_TC[..., None]
        return self.pool(value_TCF, gate_TCF, turn)

    def pool(self, value_TCF: torch.Tensor, gate_TCF: torch.Tensor, turn: Angles) -> torch.Tensor:
        """Return one entry `[T, F]` for each window laid out in full, gates biased already."""
        share_TCF = torch.softmax(widened(gate_TCF), dim=1).to(value_TCF.dtype)
        return rotate(self.norm((value_TCF * share_TCF).sum(1)), turn)


def _with_previous(x_TCF: torch.Tensor, width: int) -> torch.Tensor:
    """Return `[T, 2C, F]`: the previous window's first series, then the own window's second."""
    previous_TCF = torch.cat((x_TCF[:1], x_TCF[:-1]))[..., :width]
    return torch.cat((previous_TCF, x_TCF[..., width:]), dim=1)
