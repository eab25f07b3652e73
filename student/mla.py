"""Multi-head latent attention, the attention of the mla family.

DeepSeek-V3 report (arXiv 2412.19437), section 2.1.1. Keys and values of all heads are made from
one latent a token, and one rotary key is shared by all heads; those two are all that is cached.

Shapes: N tokens, D hidden_size, H heads, L kv_lora_rank, P qk_nope_head_dim, R qk_rope_head_dim,
V v_head_dim, B documents, S tokens of each.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from student.cache import MLACache, read
from student.config import MLAConfig
from student.documents import Documents
from student.norm import RMSNorm
from student.rotary import Angles, angles, rotate, softmax_correction


class MLAPositions(NamedTuple):
    """A stream's documents and its tokens' angles."""

    documents: Documents
    turn: Angles

    @classmethod
    def of(cls, documents: Documents, frequency_R: torch.Tensor) -> "MLAPositions":
        """Return the positions of a stream."""
        return cls(documents, angles(documents.position_N, frequency_R))


class MLAttention(nn.Module):
    """Full causal attention within each document, over keys and values made from a latent."""

    def __init__(self, config: MLAConfig) -> None:
        super().__init__()
        d, heads, eps = config.hidden_size, config.num_heads, config.rms_norm_eps
        self.heads, self.rank = heads, config.kv_lora_rank
        self.nope, self.rope, self.value = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        q_width = heads * (self.nope + self.rope)
        self.compressed = config.q_lora_rank is not None
        if config.q_lora_rank is not None:
            self.q_a = nn.Linear(d, config.q_lora_rank, bias=config.attention_bias)
            self.q_norm = RMSNorm(config.q_lora_rank, eps)
            self.q_b = nn.Linear(config.q_lora_rank, q_width, bias=False)
        else:
            self.q = nn.Linear(d, q_width, bias=False)
        self.kv_a = nn.Linear(d, self.rank + self.rope, bias=config.attention_bias)
        self.kv_norm = RMSNorm(self.rank, eps)
        self.kv_b = nn.Linear(self.rank, heads * (self.nope + self.value), bias=False)
        self.o = nn.Linear(heads * self.value, d, bias=config.attention_bias)
        self.scale = (self.nope + self.rope) ** -0.5 * softmax_correction(config.yarn)

    def forward(
        self, x_ND: torch.Tensor, positions: MLAPositions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output `[N, D]` and what is cached of each token, `[N, L + R]`."""
        nope_NHP, turned_NHR = self.query(x_ND, positions.turn)
        latent_NL, key_NR = self.latent(x_ND, positions.turn)
        made_NHF = self.kv_b(latent_NL).unflatten(-1, (self.heads, -1))
        made_NHP, value_NHV = made_NHF.split([self.nope, self.value], dim=-1)
        shared_NHR = key_NR.unsqueeze(1).expand(-1, self.heads, -1).to(made_NHP.dtype)
        query_NHF = torch.cat((nope_NHP, turned_NHR), dim=-1)
        key_NHF = torch.cat((made_NHP, shared_NHR), dim=-1)
        out_NHV = causal(query_NHF, key_NHF, value_NHV, positions.documents, self.scale)
        return self.o(out_NHV.flatten(1)), torch.cat((latent_NL, key_NR), dim=-1)

    def step(self, x_BD: torch.Tensor, cache: MLACache, turn: Angles) -> torch.Tensor:
        """Attend from one more token of each sequence, `[B, D]`.

        Queries are carried into the latent space and sums out of it (the report's section 2.1.1
        on absorbing the up-projections), so keys and values of past tokens are never made.
        """
        nope_BHP, turned_BHR = self.query(x_BD, turn)
        latent_BL, key_BR = self.latent(x_BD, turn)
        made_HFL = self.kv_b.weight.unflatten(0, (self.heads, -1))
        key_HPL, value_HVL = made_HFL.split([self.nope, self.value], dim=1)
        absorbed_HBL = torch.bmm(nope_BHP.transpose(0, 1), key_HPL.to(nope_BHP.dtype))
        query_BHF = torch.cat((absorbed_HBL.transpose(0, 1), turned_BHR), dim=-1)
        row_BYF, bias_B1Y = cache.add(torch.cat((latent_BL, key_BR), dim=-1))
        read_BHF = read(query_BHF, row_BYF, bias_B1Y, None, self.scale)
        read_HBL = read_BHF[..., : self.rank].transpose(0, 1)
        out_HBV = torch.bmm(read_HBL, value_HVL.transpose(1, 2).to(read_HBL.dtype))
        return self.o(out_HBV.transpose(0, 1).flatten(1))

    def query(self, x_ND: torch.Tensor, turn: Angles) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both parts of the query heads, `[N, H, P]` and, turned, `[N, H, R]`."""
        flat_NF = self.q_b(self.q_norm(self.q_a(x_ND))) if self.compressed else self.q(x_ND)
        query_NHF = flat_NF.unflatten(-1, (self.heads, -1))
        nope_NHP, rope_NHR = query_NHF.split([self.nope, self.rope], dim=-1)
        return nope_NHP, rotate(rope_NHR, turn)

    def latent(self, x_ND: torch.Tensor, turn: Angles) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normed latent `[N, L]` and the turned shared key `[N, R]`."""
        latent_NL, key_NR = self.kv_a(x_ND).split([self.rank, self.rope], dim=-1)
        return self.kv_norm(latent_NL), rotate(key_NR, turn)


def causal(
    query_NHF: torch.Tensor,
    key_NHF: torch.Tensor,
    value_NHV: torch.Tensor,
    documents: Documents,
    scale: float,
) -> torch.Tensor:
    """Return softmax attention of each token over the tokens of its document so far, `[N, H, V]`.

    Values as wide as keys let every backend choose its kernel without the score matrix, so the
    narrower of the two is padded with zeros, which change nothing.
    """
    width = value_NHV.shape[-1]
    wider = max(width, key_NHF.shape[-1])
    parts = [F.pad(x, (0, wider - x.shape[-1])) for x in (query_NHF, key_NHF, value_NHV)]
    if documents.equal_length is not None:
        rows = [x.unflatten(0, (-1, documents.equal_length)) for x in parts]
        return _attend(rows, scale).flatten(0, 1)[..., :width]
    outs = []
    for start, length in zip(documents.starts.tolist(), documents.lengths, strict=True):
        rows = [x[None, start : start + length] for x in parts]
        outs.append(_attend(rows, scale)[0])
    return torch.cat(outs)[..., :width]


def _attend(rows_BSHF: list[torch.Tensor], scale: float) -> torch.Tensor:
    query, key, value = (x.transpose(1, 2) for x in rows_BSHF)
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return out.transpose(1, 2)
