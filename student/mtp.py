"""Multi-token prediction: layers that predict further ahead than the next token.

DeepSeek-V3 report, section 2.2; in v4 as its released weights are laid out. Depth k joins what
was made of token i with the embedding of token i + k, runs one more layer over that, and predicts
token i + k + 1 with the shared head. Each depth needs one more known token, so its stream is one
token a document shorter.

Shapes: N tokens of a depth's stream, D hidden_size, M streams of the residual.
"""

import torch
from torch import nn

from student.config import MLAConfig, V4Config
from student.hyper_connection import StreamHead
from student.norm import RMSNorm


class MLAPredictor(nn.Module):
    """One depth of the mla family, around a layer `block`."""

    def __init__(self, config: MLAConfig, block: nn.Module) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.eh_proj = nn.Linear(2 * d, d, bias=False)
        self.block = block
        self.norm = RMSNorm(d, eps)

    def join(self, embedded_ND: torch.Tensor, made_ND: torch.Tensor) -> torch.Tensor:
        """Return the block's input from the later token's embedding and what came before."""
        return self.eh_proj(torch.cat((self.enorm(embedded_ND), self.hnorm(made_ND)), dim=-1))

    def read(self, made_ND: torch.Tensor) -> torch.Tensor:
        """Return what the shared head reads."""
        return self.norm(made_ND)


class V4Predictor(nn.Module):
    """One depth of the v4 family: the embedding goes to every stream of the residual."""

    def __init__(self, config: V4Config, block: nn.Module) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.e_proj, self.h_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.block = block
        self.stream_head = StreamHead(config)
        self.norm = RMSNorm(d, eps)

    def join(self, embedded_ND: torch.Tensor, made_NMD: torch.Tensor) -> torch.Tensor:
        """Return the block's input streams."""
        later_ND = self.e_proj(self.enorm(embedded_ND))
        return self.h_proj(self.hnorm(made_NMD)) + later_ND.unsqueeze(1)

    def read(self, made_NMD: torch.Tensor) -> torch.Tensor:
        """Return what the shared head reads."""
        return self.norm(self.stream_head(made_NMD))
