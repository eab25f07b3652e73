"""Names of tensors in the released checkpoints of DeepSeek-V3 and DeepSeek-V4.

Students are written as the published checkpoints are (arXiv 2412.19437 and 2606.19348), so what
reads those reads students, and the other way round. A row of a table below reads: name in the
student's state, name in the release. Nothing here touches a file.

Letters: {e} an expert; E experts, I their inner width, D hidden size.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from student.config import MLAConfig, V4Config
from student.errors import WeightsError

Config = MLAConfig | V4Config
Names = Mapping[str, str]


class Table(NamedTuple):
    """The names of a family.

    Attributes:
        network: outside the layers.
        block: within a layer. An expert tensor has two names, a blank between them, where each
            of its matrices is two of the release's: of `gate_up` `[E, 2I, D]`, I rows each.
        prediction: of a prediction layer, outside its block.
    """

    network: Names
    block: Names
    prediction: Names


V4_STREAM_HEAD = {
    "stream_head.fn": "hc_head_fn",
    "stream_head.base": "hc_head_base",
    "stream_head.scale": "hc_head_scale",
}
V4_ATTENTION = {
    "attn.q_a.weight": "attn.wq_a.weight",
    "attn.q_norm.weight": "attn.q_norm.weight",
    "attn.q_b.weight": "attn.wq_b.weight",
    "attn.kv.weight": "attn.wkv.weight",
    "attn.kv_norm.weight": "attn.kv_norm.weight",
    "attn.o_a.weight": "attn.wo_a.weight",
    "attn.o_b.weight": "attn.wo_b.weight",
    "attn.sinks": "attn.attn_sink",
    "attn.compressor.kv.weight": "attn.compressor.wkv.weight",
    "attn.compressor.gate.weight": "attn.compressor.wgate.weight",
    "attn.compressor.position_bias": "attn.compressor.ape",
    "attn.compressor.norm.weight": "attn.compressor.norm.weight",
    "attn.indexer.q_b.weight": "attn.indexer.wq_b.weight",
    "attn.indexer.weights.weight": "attn.indexer.weights_proj.weight",
    "attn.indexer.compressor.kv.weight": "attn.indexer.compressor.wkv.weight",
    "attn.indexer.compressor.gate.weight": "attn.indexer.compressor.wgate.weight",
    "attn.indexer.compressor.position_bias": "attn.indexer.compressor.ape",
    "attn.indexer.compressor.norm.weight": "attn.indexer.compressor.norm.weight",
}
V4_MIXTURE = {
    "ffn.router.weight": "ffn.gate.weight",
    "ffn.router.bias": "ffn.gate.bias",
    "ffn.router.table": "ffn.gate.tid2eid",
    "ffn.experts.gate_up": "ffn.experts.{e}.w1.weight ffn.experts.{e}.w3.weight",
    "ffn.experts.down": "ffn.experts.{e}.w2.weight",
    "ffn.shared.gate.weight": "ffn.shared_experts.w1.weight",
    "ffn.shared.up.weight": "ffn.shared_experts.w3.weight",
    "ffn.shared.down.weight": "ffn.shared_experts.w2.weight",
}
V4 = Table(
    network={
        "embed.weight": "embed.weight",
        "head.weight": "head.weight",
        "norm.weight": "norm.weight",
        **V4_STREAM_HEAD,
    },
    block={
        "attn_norm.weight": "attn_norm.weight",
        "ffn_norm.weight": "ffn_norm.weight",
        "attn_hc.fn": "hc_attn_fn",
        "attn_hc.base": "hc_attn_base",
        "attn_hc.scale": "hc_attn_scale",
        "ffn_hc.fn": "hc_ffn_fn",
        "ffn_hc.base": "hc_ffn_base",
        "ffn_hc.scale": "hc_ffn_scale",
        **V4_ATTENTION,
        **V4_MIXTURE,
    },
    prediction={
        "enorm.weight": "enorm.weight",
        "hnorm.weight": "hnorm.weight",
        "norm.weight": "norm.weight",
        "e_proj.weight": "e_proj.weight",
        "h_proj.weight": "h_proj.weight",
        **V4_STREAM_HEAD,
    },
)
MLA = Table(
    network={
        "embed.weight": "model.embed_tokens.weight",
        "head.weight": "lm_head.weight",
        "norm.weight": "model.norm.weight",
    },
    block={
        "attn_norm.weight": "input_layernorm.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "attn.q.weight": "self_attn.q_proj.weight",
        "attn.q_a.weight": "self_attn.q_a_proj.weight",
        "attn.q_a.bias": "self_attn.q_a_proj.bias",
        "attn.q_norm.weight": "self_attn.q_a_layernorm.weight",
        "attn.q_b.weight": "self_attn.q_b_proj.weight",
        "attn.kv_a.weight": "self_attn.kv_a_proj_with_mqa.weight",
        "attn.kv_a.bias": "self_attn.kv_a_proj_with_mqa.bias",
        "attn.kv_norm.weight": "self_attn.kv_a_layernorm.weight",
        "attn.kv_b.weight": "self_attn.kv_b_proj.weight",
        "attn.o.weight": "self_attn.o_proj.weight",
        "attn.o.bias": "self_attn.o_proj.bias",
        "ffn.gate.weight": "mlp.gate_proj.weight",
        "ffn.up.weight": "mlp.up_proj.weight",
        "ffn.down.weight": "mlp.down_proj.weight",
        "ffn.router.weight": "mlp.gate.weight",
        "ffn.router.bias": "mlp.gate.e_score_correction_bias",
        "ffn.experts.gate_up": "mlp.experts.{e}.gate_proj.weight mlp.experts.{e}.up_proj.weight",
        "ffn.experts.down": "mlp.experts.{e}.down_proj.weight",
        "ffn.shared.gate.weight": "mlp.shared_experts.gate_proj.weight",
        "ffn.shared.up.weight": "mlp.shared_experts.up_proj.weight",
        "ffn.shared.down.weight": "mlp.shared_experts.down_proj.weight",
    },
    prediction={
        "enorm.weight": "enorm.weight",
        "hnorm.weight": "hnorm.weight",
        "norm.weight": "shared_head.norm.weight",
        "eh_proj.weight": "eh_proj.weight",
    },
)
PART = re.compile(r"(?:layers\.(\d+)\.|mtp\.(\d+)\.(block\.)?)?(.+)")
FLOAT32 = re.compile(r"(norm\.weight|_hc\.\w+|stream_head\.\w+|sinks|\w*bias)$")


class Place(NamedTuple):
    """Where in the student's state a released tensor lies.

    Attributes:
        name: of the student's tensor.
        expert: which of its E matrices, or None for all of it.
        half: 0 or 1, which half of that matrix's rows, or None for all.
    """

    name: str
    expert: int | None = None
    half: int | None = None


def places(shapes: Mapping[str, Sequence[int]], config: Config) -> dict[str, Place]:
    """Return the place of every released tensor of a student whose state has these shapes.

    Raises:
        WeightsError: the layout has no name for one of them.
    """
    found = {}
    for name, shape in shapes.items():
        prefix, rows = _released(name, config)
        for half, row in enumerate(rows):
            if "{e}" not in row:
                found[prefix + row] = Place(name)
                continue
            for expert in range(shape[0]):
                part = half if len(rows) > 1 else None
                found[prefix + row.format(e=expert)] = Place(name, expert, part)
    return found


def view(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """Return the part of a student's tensor that lies at `place`; it shares its memory."""
    if place.expert is None:
        return tensor
    matrix = tensor[place.expert]
    return matrix if place.half is None else matrix.chunk(2)[place.half]


def copies(config: Config) -> dict[str, str]:
    """Return released names of tensors the student has once, with its own name for them.

    DeepSeek-V3's checkpoint repeats embedding and head under its prediction layer and engines
    look for them there, so these are written. DeepSeek-V4's does not: its 69,187 tensors are
    those of the table and their quantisation scales.
    """
    if isinstance(config, V4Config):
        return {}
    head = "embed.weight" if config.tie_word_embeddings else "head.weight"
    found = {}
    for index in range(config.num_layers, config.num_layers + config.num_mtp_layers):
        found[f"model.layers.{index}.embed_tokens.weight"] = "embed.weight"
        found[f"model.layers.{index}.shared_head.head.weight"] = head
    return found


def copies_allowed(config: Config) -> dict[str, str]:
    """Return `copies` and those that other tools write; a reader checks that they are copies."""
    head = "embed.weight" if config.tie_word_embeddings else "head.weight"
    found = copies(config)
    if config.tie_word_embeddings:
        found[_table(config).network["head.weight"]] = head
    if isinstance(config, V4Config):
        for index in range(config.num_mtp_layers):
            found[f"mtp.{index}.embed.weight"] = "embed.weight"
            found[f"mtp.{index}.emb.tok_emb.weight"] = "embed.weight"
            found[f"mtp.{index}.head.weight"] = head
    return found


def kept_in_float32(name: str) -> bool:
    """Tell whether a student's tensor stays float32 when the rest is stored in less.

    The release stores hyper-connections, sinks, position biases and routing bias so; readers keep
    norms so too, and together they weigh next to nothing.
    """
    return FLOAT32.search(name) is not None


def is_prediction(name: str) -> bool:
    """Tell whether a student's tensor belongs to a prediction layer."""
    return name.startswith("mtp.")


def _table(config: Config) -> Table:
    return V4 if isinstance(config, V4Config) else MLA


def _released(name: str, config: Config) -> tuple[str, list[str]]:
    """Return prefix and row of a student's tensor."""
    table, found = _table(config), PART.fullmatch(name)
    layer, mtp, block, rest = found.groups() if found else (None, None, None, name)
    names = table.network
    if layer is not None or block is not None:
        names = table.block
    elif mtp is not None:
        names = table.prediction
    if rest not in names:
        raise WeightsError(f"{name} has no name in the released layout of family {config.family}.")
    return _prefix(config, layer, mtp), names[rest].split()


def _prefix(config: Config, layer: str | None, mtp: str | None) -> str:
    if layer is None and mtp is None:
        return ""
    if isinstance(config, V4Config):
        return f"layers.{layer}." if layer is not None else f"mtp.{mtp}."
    index = int(layer) if layer is not None else config.num_layers + int(mtp or 0)
    return f"model.layers.{index}."
