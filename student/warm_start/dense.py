"""A dense Llama-like teacher as numbers and matrices, heads apart; what is not one is refused.

Shapes: D hidden size, H query heads, G key-value heads, F values of a head, I inner width of the
feed-forward layers, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from student.errors import WarmStartError

FAMILIES = ("llama", "mistral", "qwen2")
"""Kinds of transformers' models that are read: plain causal attention and SwiGLU, one residual."""

_UNREAD = {
    "qwen3": "it normalises queries and keys head by head, which no latent of them can keep",
    "qwen3_moe": "it is no dense model",
    "mixtral": "it is no dense model",
    "gemma": "its activation is GELU and its embeddings are scaled",
    "gemma2": "it caps its attention scores",
    "phi3": "its matrices are fused",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseLayer:
    """One layer's weights; a bias that is not there is None.

    Attributes:
        attn_norm_D, ffn_norm_D: weights of the norms before attention and before the network.
        q_HFD, k_GFD, v_GFD: into queries, keys and values.
        q_HF, k_GF, v_GF: their biases.
        o_DHF, o_D: out of attention.
        gate_ID, up_ID, down_DI: of the network.
    """

    attn_norm_D: torch.Tensor
    ffn_norm_D: torch.Tensor
    q_HFD: torch.Tensor
    k_GFD: torch.Tensor
    v_GFD: torch.Tensor
    q_HF: torch.Tensor | None
    k_GF: torch.Tensor | None
    v_GF: torch.Tensor | None
    o_DHF: torch.Tensor
    o_D: torch.Tensor | None
    gate_ID: torch.Tensor
    up_ID: torch.Tensor
    down_DI: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """How large a teacher is.

    Attributes:
        hidden_size, heads, kv_heads, head_dim, intermediate_size: D, H, G, F and I.
        layers: how many.
        tied: whether the head is the embedding.
        biased: whether queries, keys and values have biases.
        rope_theta: the base that rotary frequencies go back to.
        eps: of the norms.
        max_positions: tokens of context.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    layers: int
    tied: bool
    biased: bool
    rope_theta: float
    eps: float
    max_positions: int

    @property
    def cache_values(self) -> int:
        """Values a token and layer that the teacher itself caches: keys and values."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dense:
    """A teacher whose weights a student can inherit.

    Attributes:
        numbers: how large it is.
        embed_VD: of tokens.
        head_VD: of logits; None where that is the embedding.
        norm_D: the last norm's weight.
        layers: in order.
        frequency_P: radians a token by which the pair (f, f + F / 2) of a head turns, `[F / 2]`,
            float64.
        amplitude: what cosine and sine are multiplied with.
    """

    numbers: Numbers
    embed_VD: torch.Tensor
    head_VD: torch.Tensor | None
    norm_D: torch.Tensor
    layers: tuple[DenseLayer, ...]
    frequency_P: torch.Tensor
    amplitude: float


def numbers(config: Any) -> Numbers:
    """Return how large a model is whose weights a student can inherit.

    Args:
        config: transformers' own.

    Raises:
        WarmStartError: says which part of it has no place in a student.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        why = _UNREAD.get(kind, "its layers are not known here")
        raise WarmStartError(f"the teacher is of kind {kind!r}: {why}; a warm start reads {known}.")
    if config.hidden_act != "silu":
        raise WarmStartError(f"the teacher's activation is {config.hidden_act!r}; it must be silu.")
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = kinds != {"full_attention"} if kind == "qwen2" else window is not None
    if slides and (window or 0) < config.max_position_embeddings:
        raise WarmStartError(
            f"the teacher attends to the last {window} tokens alone, and latent attention to all; "
            "a warm start reads teachers with full attention."
        )
    if getattr(config, "mlp_bias", False):
        raise WarmStartError("the teacher's feed-forward layers have biases; experts have none.")
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") == "dynamic":
        raise WarmStartError(
            "the teacher's rotary frequencies change with the length of the text (dynamic); a "
            "student's do not."
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise WarmStartError("the teacher turns a part of each head alone; a warm start needs all.")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Numbers(
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=width,
        intermediate_size=config.intermediate_size,
        layers=config.num_hidden_layers,
        tied=bool(config.tie_word_embeddings),
        biased=kind == "qwen2" or bool(getattr(config, "attention_bias", False)),
        rope_theta=float(rope["rope_theta"]),
        eps=float(config.rms_norm_eps),
        max_positions=int(config.max_position_embeddings),
    )


def read(model: nn.Module) -> Dense:
    """Return the weights of a transformers causal language model; they are not copied.

    Raises:
        WarmStartError: no student can inherit them.
    """
    found = numbers(model.config)
    body: Any = model.get_submodule("model")
    head = None if found.tied else model.get_submodule("lm_head").get_parameter("weight").detach()
    return Dense(
        numbers=found,
        embed_VD=body.embed_tokens.weight.detach(),
        head_VD=head,
        norm_D=body.norm.weight.detach(),
        layers=tuple(_layer(layer, found.head_dim) for layer in body.layers),
        frequency_P=body.rotary_emb.inv_freq.detach().double().cpu(),
        amplitude=float(getattr(body.rotary_emb, "attention_scaling", 1.0)),
    )


def _layer(layer: Any, width: int) -> DenseLayer:
    attn, ffn = layer.self_attn, layer.mlp

    def heads(linear: nn.Linear) -> torch.Tensor:
        return linear.weight.detach().unflatten(0, (-1, width))

    def bias(linear: nn.Linear) -> torch.Tensor | None:
        return None if linear.bias is None else linear.bias.detach().unflatten(0, (-1, width))

    return DenseLayer(
        attn_norm_D=layer.input_layernorm.weight.detach(),
        ffn_norm_D=layer.post_attention_layernorm.weight.detach(),
        q_HFD=heads(attn.q_proj),
        k_GFD=heads(attn.k_proj),
        v_GFD=heads(attn.v_proj),
        q_HF=bias(attn.q_proj),
        k_GF=bias(attn.k_proj),
        v_GF=bias(attn.v_proj),
        o_DHF=attn.o_proj.weight.detach().unflatten(1, (-1, width)),
        o_D=None if attn.o_proj.bias is None else attn.o_proj.bias.detach(),
        gate_ID=ffn.gate_proj.weight.detach(),
        up_ID=ffn.up_proj.weight.detach(),
        down_DI=ffn.down_proj.weight.detach(),
    )
