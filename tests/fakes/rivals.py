"""The same network twice: a student of ours, and transformers' with the same weights.

Theirs are rectangles of rows and columns with a mask, ours a stream of documents; what theirs
choose, of experts and of entries, is noted as they run, so that ours can be made to choose alike.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
)
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.deepseek_v4 import modeling_deepseek_v4

from student.choices import Choices
from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.model import Student
from student.released_config import config_json
from student.vocabulary import Vocabulary

Theirs = DeepseekV3ForCausalLM | DeepseekV4ForCausalLM
Pick = Callable[[Any], torch.Tensor]

# Parts of names as transformers' modules call them, in this order, and as ours do.
RENAMED = (
    (r"^lm_head", "head"),
    (r"^model\.", ""),
    (r"embed_tokens", "embed"),
    (r"input_layernorm", "attn_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"hc_head\.hc_", "stream_head."),
    (r"self_attn", "attn"),
    (r"compressor\.indexer\.scorer\.weights_proj", "indexer.weights"),
    (r"compressor\.indexer\.q_b_proj", "indexer.q_b"),
    (r"compressor\.indexer\.", "indexer.compressor."),
    (r"compressor\.kv_norm", "compressor.norm"),
    (r"kv_a_proj_with_mqa", "kv_a"),
    (r"kv_a_layernorm", "kv_norm"),
    (r"(q_a_layernorm|q_a_norm)", "q_norm"),
    (r"mlp\.gate\.e_score_correction_bias", "mlp.router.bias"),
    (r"mlp\.gate\.tid2eid", "mlp.router.table"),
    (r"mlp\.gate\.", "mlp.router."),
    (r"mlp", "ffn"),
    (r"shared_experts", "shared"),
    (r"_proj", ""),
)


def ours_called(name: str) -> str:
    """Return our name of a tensor of transformers'."""
    for theirs, ours in RENAMED:
        name = re.sub(theirs, ours, name)
    return name


def theirs_config(
    config: MLAConfig | V4Config, vocabulary: Vocabulary
) -> DeepseekV3Config | DeepseekV4Config:
    """Return the same network in transformers' words."""
    kind = DeepseekV3Config if isinstance(config, MLAConfig) else DeepseekV4Config
    # Without a token of padding: theirs would keep that token's embedding from learning.
    said = config_json(config, vocabulary) | {"pad_token_id": None}
    return kind(**said, attn_implementation="eager", experts_implementation="eager")


def untrained(config: MLAConfig | V4Config, vocabulary: Vocabulary) -> Theirs:
    """Return transformers' model as it begins by itself, from torch's own random state."""
    said = theirs_config(config, vocabulary)
    if isinstance(config, MLAConfig):
        return DeepseekV3ForCausalLM(said)
    return DeepseekV4ForCausalLM(said)


def rival(student: Student) -> Theirs:
    """Return transformers' model with a student's weights, prediction layers aside."""
    theirs = untrained(student.config, student.vocabulary)
    state = student.state_dict()
    if student.config.tie_word_embeddings:
        state["head.weight"] = state["embed.weight"]
    taken = {name: state.pop(ours_called(name)) for name in theirs.state_dict()}
    assert not [name for name in state if not name.startswith("mtp.")]
    theirs.load_state_dict(taken, strict=True)
    return theirs


@dataclass(frozen=True)
class Noted:
    """What the layers of transformers' model chose in a pass, and by which scores.

    Attributes:
        experts: by layer, `[B S, K]`.
        entries: by layer, places in a row's own entries, `[B, S, K]`, -1 for none.
        expert_scores: by layer with a learned choice, `[B S, E]`, the bias included.
        entry_scores: by layer, `[B, S, T]`.
    """

    experts: dict[int, torch.Tensor] = field(default_factory=dict)
    entries: dict[int, torch.Tensor] = field(default_factory=dict)
    expert_scores: dict[int, torch.Tensor] = field(default_factory=dict)
    entry_scores: dict[int, torch.Tensor] = field(default_factory=dict)

    def choices(
        self, documents: Documents, mask_BS: torch.Tensor, config: V4Config | MLAConfig
    ) -> Choices:
        """Return them as ours, of the tokens that are not padding."""
        kept_N = mask_BS.flatten().bool()
        experts = tuple(self._experts(layer, kept_N) for layer in range(config.num_layers))
        entries: list[torch.Tensor | None] = [None] * config.num_layers
        for layer, chosen_BSK in self.entries.items():
            assert isinstance(config, V4Config)
            first_N1 = documents.entries(config.csa_compression).first_N[:, None]
            chosen_NK = chosen_BSK.flatten(0, 1)[kept_N]
            entries[layer] = torch.where(chosen_NK < 0, chosen_NK, chosen_NK + first_N1)
        return Choices(experts=experts, entries=tuple(entries))

    def _experts(self, layer: int, kept_N: torch.Tensor) -> torch.Tensor | None:
        return self.experts[layer][kept_N] if layer in self.experts else None


@contextmanager
def noting(theirs: Theirs) -> Iterator[Noted]:
    """Note what every layer chooses while the context lasts."""
    noted, handles = Noted(), []

    def note(module: nn.Module, into: dict[int, torch.Tensor], layer: int, pick: Pick) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            into[layer] = pick(output).detach()

        handles.append(module.register_forward_hook(hook))

    for layer, block in enumerate(theirs.model.layers):
        for name, module in block.named_modules():
            if name == "mlp.gate":
                note(module, noted.experts, layer, lambda out: out[2])
                if not isinstance(module, modeling_deepseek_v4.DeepseekV4HashRouter):
                    pick = _scores(module, v4=isinstance(theirs, DeepseekV4ForCausalLM))
                    note(module, noted.expert_scores, layer, pick)
            elif name.endswith("indexer"):
                note(module, noted.entries, layer, lambda out: out)
            elif name.endswith("scorer"):
                note(module, noted.entry_scores, layer, lambda out: out)
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


def _scores(router: nn.Module, *, v4: bool) -> Pick:
    def scores(output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        logits = output[0]
        affinity = nn.functional.softplus(logits).sqrt() if v4 else logits.sigmoid()
        return affinity + router.e_score_correction_bias

    return scores


class _Wide:
    """torch, with float64 where float32 is asked for by name."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextmanager
def in_float64(theirs: Theirs) -> Iterator[Theirs]:
    """Run transformers' model in float64, although float32 is written into its formulas."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        for modeling in (modeling_deepseek_v3, modeling_deepseek_v4):
            stack.enter_context(mock.patch.object(modeling, "torch", _Wide()))
        yield theirs.double()


def as_released(name: str) -> str:
    """Undo what transformers 5.23 writes otherwise than the release."""
    name = name.removeprefix("model.").replace("embed_tokens.", "embed.")
    name = name.replace("hc_head.hc_", "hc_head_")
    parts = name.split(".")
    if parts[2:5] == ["attn", "norm", "weight"]:
        parts[3] = "kv_norm"
    return ".".join(parts)
