"""One layer of a student: attention and a feed-forward layer, joined to the residual.

In mla each is added to one stream. In v4 each reads and writes several streams by a
hyper-connection. Auxiliary losses are returned, never hung on hooks, so that recomputing a block
(activation checkpointing) keeps their gradients.

Shapes: N tokens of the stream, B sequences, D hidden_size, M streams of v4's residual, E experts,
K experts or entries a token.
"""

from typing import NamedTuple

import torch
from torch import nn

from student.cache import MLACache, V4Cache
from student.config import LayerType, MLAConfig, V4Config
from student.hyper_connection import HyperConnection, expand
from student.mla import MLAPositions, MLAttention
from student.moe import HashRouter, Mixture, Router, SwiGLU
from student.norm import RMSNorm
from student.rotary import Angles
from student.v4_attention import Memory, Positions, Turns, V4Attention


class Pass(NamedTuple):
    """What one forward pass wants of a block.

    Attributes:
        token_N: int64 tokens, which hash routers read.
        dense: attend to every entry seen, as before sparse attention is introduced.
        losses: compute the balance loss and the indexer's.
    """

    token_N: torch.Tensor
    dense: bool
    losses: bool


class Made(NamedTuple):
    """What a block returns.

    Attributes:
        state: the residual, `[N, D]` in mla and `[N, M, D]` in v4.
        experts: int64 `[N, K]`, None in a dense layer.
        entries: int64 `[N, K]`, None where no indexer's choice binds.
        load_E: float32, tokens each expert was given, None in a dense layer.
        balance_loss: scalar or None.
        index_loss: scalar or None.
        memory: what cached decoding keeps of these tokens.
    """

    state: torch.Tensor
    experts: torch.Tensor | None
    entries: torch.Tensor | None
    load_E: torch.Tensor | None
    balance_loss: torch.Tensor | None
    index_loss: torch.Tensor | None
    memory: Memory | torch.Tensor


class MLABlock(nn.Module):
    """Attention, then a dense or mixture layer, each added to one residual stream."""

    def __init__(self, config: MLAConfig, *, dense: bool) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.attn_norm, self.ffn_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.attn = MLAttention(config)
        shared = config.num_shared_experts * config.moe_intermediate_size
        self.ffn: SwiGLU | Mixture = (
            SwiGLU(d, config.intermediate_size, None)
            if dense
            else Mixture(config, Router(config), shared)
        )

    def forward(
        self,
        x_ND: torch.Tensor,
        positions: MLAPositions,
        wanted: Pass,
        expert_NK: torch.Tensor | None,
        entry_NK: torch.Tensor | None,
    ) -> Made:
        """Run the block on a stream; `entry_NK` is v4's and ignored."""
        out_ND, memory_NF = self.attn(self.attn_norm(x_ND), positions)
        x_ND = x_ND + out_ND
        normed_ND = self.ffn_norm(x_ND)
        if isinstance(self.ffn, SwiGLU):
            return Made(x_ND + self.ffn(normed_ND), None, None, None, None, None, memory_NF)
        mixed = self.ffn(
            normed_ND,
            wanted.token_N,
            expert_NK=expert_NK,
            balanced_over=positions.documents if wanted.losses else None,
        )
        state_ND = x_ND + mixed.output_ND.to(x_ND.dtype)  # experts are summed in float32
        return Made(
            state_ND, mixed.expert_NK, None, mixed.load_E, mixed.balance_loss, None, memory_NF
        )

    def step(
        self,
        x_BD: torch.Tensor,
        cache: MLACache | V4Cache,
        turns: Turns | Angles,
        token_B: torch.Tensor,
        entry_BK: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Run the block on one more token of each sequence: the residual and its choices."""
        assert isinstance(cache, MLACache) and isinstance(turns, Angles)
        x_BD = x_BD + self.attn.step(self.attn_norm(x_BD), cache, turns)
        normed_BD = self.ffn_norm(x_BD)
        if isinstance(self.ffn, SwiGLU):
            return x_BD + self.ffn(normed_BD), None, None
        mixed = self.ffn(normed_BD, token_B, expert_NK=None, balanced_over=None)
        return x_BD + mixed.output_ND.to(x_BD.dtype), mixed.expert_NK, None


class V4Block(nn.Module):
    """Attention, then a mixture, each reading and writing the streams by a hyper-connection."""

    def __init__(self, config: V4Config, kind: LayerType, vocab_size: int, *, hashed: bool) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.attn_norm, self.ffn_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.attn_hc, self.ffn_hc = HyperConnection(config), HyperConnection(config)
        self.attn = V4Attention(config, kind)
        router = HashRouter(config, vocab_size) if hashed else Router(config)
        self.ffn = Mixture(config, router, config.moe_intermediate_size)

    def forward(
        self,
        streams_NMD: torch.Tensor,
        positions: Positions,
        wanted: Pass,
        expert_NK: torch.Tensor | None,
        entry_NK: torch.Tensor | None,
    ) -> Made:
        """Run the block on a stream of documents."""
        mixing = self.attn_hc(streams_NMD)
        attended = self.attn(
            self.attn_norm(mixing.input_ND),
            positions,
            choice_NK=entry_NK,
            dense=wanted.dense,
            train_indexer=wanted.losses,
        )
        streams_NMD = expand(mixing, attended.output_ND)
        mixing = self.ffn_hc(streams_NMD)
        mixed = self.ffn(
            self.ffn_norm(mixing.input_ND),
            wanted.token_N,
            expert_NK=expert_NK,
            balanced_over=positions.documents if wanted.losses else None,
        )
        return Made(
            expand(mixing, mixed.output_ND),
            mixed.expert_NK,
            attended.choice_NK,
            mixed.load_E,
            mixed.balance_loss,
            attended.index_loss,
            attended.memory,
        )

    def step(
        self,
        streams_BMD: torch.Tensor,
        cache: MLACache | V4Cache,
        turns: Turns | Angles,
        token_B: torch.Tensor,
        entry_BK: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Run the block on one more token of each sequence: the streams and its choices."""
        assert isinstance(cache, V4Cache) and isinstance(turns, Turns)
        mixing = self.attn_hc(streams_BMD)
        out_BD, chosen_BK = self.attn.step(
            self.attn_norm(mixing.input_ND), cache, turns, choice_BK=entry_BK
        )
        streams_BMD = expand(mixing, out_BD)
        mixing = self.ffn_hc(streams_BMD)
        out_BD, expert_BK = self.ffn.step(self.ffn_norm(mixing.input_ND), token_B)
        return expand(mixing, out_BD), expert_BK, chosen_BK
