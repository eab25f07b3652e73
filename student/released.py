"""The released layout of DeepSeek-V3 and DeepSeek-V4: names of tensors, fields of config.json.

Students are written as the published checkpoints are (arXiv 2412.19437 and 2606.19348), so what
reads those reads students, and the other way round. A row of a table below reads: name in the
student's state, name in the release. What a student cannot be is refused by name, never dropped.
Nothing here touches a file.

Letters: {e} an expert; E experts, I their inner width, D hidden size, V vocabulary.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from student.config import MLAConfig, V4Config, Yarn
from student.errors import ConfigError, WeightsError
from student.vocabulary import Vocabulary

Config = MLAConfig | V4Config
Fields = Mapping[str, Any]
Names = Mapping[str, tuple[str, ...]]

MAIN_INDEX = "main.safetensors.index.json"
"""The index of all but prediction layers, for readers that would not know what those are."""


class Layout(NamedTuple):
    """What a family is called in the release.

    Attributes:
        model_type: of config.json.
        architecture: of config.json.
        network: names outside the layers.
        block: names within a layer. An expert tensor has a row of names, one a part: the E
            matrices of `gate_up` `[E, 2I, D]` are the gate's I rows and then the other's.
        prediction: names of a prediction layer, outside its block.
        fields: fields of the student's config, by their names in config.json.
        fixed: what config.json must say, for nothing else can be built.
        neutral: what it may say, if it says it in this way.
        handled: fields that are translated one by one.
        shown: fields that follow from others.
    """

    model_type: str
    architecture: str
    network: Names
    block: Names
    prediction: Names
    fields: Mapping[str, str]
    fixed: Fields
    neutral: Fields
    handled: frozenset[str]
    shown: frozenset[str]


COMMON_FIELDS = {
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "q_lora_rank": "q_lora_rank",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "num_routed_experts": "n_routed_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "moe_intermediate_size": "moe_intermediate_size",
    "routed_scaling_factor": "routed_scaling_factor",
    "num_mtp_layers": "num_nextn_predict_layers",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
}
COMMON_FIXED = {
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
}
COMMON_HANDLED = frozenset(
    "model_type num_hidden_layers num_key_value_heads vocab_size bos_token_id eos_token_id "
    "pad_token_id rope_theta rope_scaling rope_parameters quantization_config expert_dtype".split()
)
HARMLESS = frozenset(
    "torch_dtype dtype transformers_version transformers_weights use_cache auto_map _name_or_path "
    "pretraining_tp ep_size aux_loss_alpha seq_aux output_router_logits router_aux_loss_coef "
    "router_jitter_noise output_attentions output_hidden_states return_dict is_encoder_decoder "
    "chunk_size_feed_forward id2label label2id problem_type attn_implementation".split()
)
OPTIONAL = {"num_nextn_predict_layers": 0, "tie_word_embeddings": False}
DEFAULTED = frozenset({"initializer_range", "hc_initial_gate"})  # of a new student's weights only

V4 = Layout(
    model_type="deepseek_v4",
    architecture="DeepseekV4ForCausalLM",
    network={
        "embed.weight": ("embed.weight",),
        "head.weight": ("head.weight",),
        "norm.weight": ("norm.weight",),
        "stream_head.fn": ("hc_head_fn",),
        "stream_head.base": ("hc_head_base",),
        "stream_head.scale": ("hc_head_scale",),
    },
    block={
        "attn_norm.weight": ("attn_norm.weight",),
        "ffn_norm.weight": ("ffn_norm.weight",),
        "attn_hc.fn": ("hc_attn_fn",),
        "attn_hc.base": ("hc_attn_base",),
        "attn_hc.scale": ("hc_attn_scale",),
        "ffn_hc.fn": ("hc_ffn_fn",),
        "ffn_hc.base": ("hc_ffn_base",),
        "ffn_hc.scale": ("hc_ffn_scale",),
        "attn.q_a.weight": ("attn.wq_a.weight",),
        "attn.q_norm.weight": ("attn.q_norm.weight",),
        "attn.q_b.weight": ("attn.wq_b.weight",),
        "attn.kv.weight": ("attn.wkv.weight",),
        "attn.kv_norm.weight": ("attn.kv_norm.weight",),
        "attn.o_a.weight": ("attn.wo_a.weight",),
        "attn.o_b.weight": ("attn.wo_b.weight",),
        "attn.sinks": ("attn.attn_sink",),
        "attn.compressor.kv.weight": ("attn.compressor.wkv.weight",),
        "attn.compressor.gate.weight": ("attn.compressor.wgate.weight",),
        "attn.compressor.position_bias": ("attn.compressor.ape",),
        "attn.compressor.norm.weight": ("attn.compressor.norm.weight",),
        "attn.indexer.q_b.weight": ("attn.indexer.wq_b.weight",),
        "attn.indexer.weights.weight": ("attn.indexer.weights_proj.weight",),
        "attn.indexer.compressor.kv.weight": ("attn.indexer.compressor.wkv.weight",),
        "attn.indexer.compressor.gate.weight": ("attn.indexer.compressor.wgate.weight",),
        "attn.indexer.compressor.position_bias": ("attn.indexer.compressor.ape",),
        "attn.indexer.compressor.norm.weight": ("attn.indexer.compressor.norm.weight",),
        "ffn.router.weight": ("ffn.gate.weight",),
        "ffn.router.bias": ("ffn.gate.bias",),
        "ffn.router.table": ("ffn.gate.tid2eid",),
        "ffn.experts.gate_up": ("ffn.experts.{e}.w1.weight", "ffn.experts.{e}.w3.weight"),
        "ffn.experts.down": ("ffn.experts.{e}.w2.weight",),
        "ffn.shared.gate.weight": ("ffn.shared_experts.w1.weight",),
        "ffn.shared.up.weight": ("ffn.shared_experts.w3.weight",),
        "ffn.shared.down.weight": ("ffn.shared_experts.w2.weight",),
    },
    prediction={
        "enorm.weight": ("enorm.weight",),
        "hnorm.weight": ("hnorm.weight",),
        "norm.weight": ("norm.weight",),
        "e_proj.weight": ("e_proj.weight",),
        "h_proj.weight": ("h_proj.weight",),
        "stream_head.fn": ("hc_head_fn",),
        "stream_head.base": ("hc_head_base",),
        "stream_head.scale": ("hc_head_scale",),
    },
    fields=COMMON_FIELDS
    | {
        "head_dim": "head_dim",
        "o_groups": "o_groups",
        "o_lora_rank": "o_lora_rank",
        "sliding_window": "sliding_window",
        "index_num_heads": "index_n_heads",
        "index_head_dim": "index_head_dim",
        "index_top_k": "index_topk",
        "swiglu_limit": "swiglu_limit",
        "hc_streams": "hc_mult",
        "hc_sinkhorn_iterations": "hc_sinkhorn_iters",
        "hc_eps": "hc_eps",
        "hc_initial_gate": "hc_initial_gate",
    },
    fixed=COMMON_FIXED | {"scoring_func": "sqrtsoftplus", "n_shared_experts": 1},
    neutral={
        "mlp_bias": False,
        "first_k_dense_replace": 0,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    handled=COMMON_HANDLED
    | set("compress_rope_theta layer_types compress_ratios compress_rates".split())
    | set("num_hash_layers mlp_layer_types partial_rotary_factor".split()),
    shown=frozenset(),
)

MLA = Layout(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    network={
        "embed.weight": ("model.embed_tokens.weight",),
        "head.weight": ("lm_head.weight",),
        "norm.weight": ("model.norm.weight",),
    },
    block={
        "attn_norm.weight": ("input_layernorm.weight",),
        "ffn_norm.weight": ("post_attention_layernorm.weight",),
        "attn.q.weight": ("self_attn.q_proj.weight",),
        "attn.q_a.weight": ("self_attn.q_a_proj.weight",),
        "attn.q_norm.weight": ("self_attn.q_a_layernorm.weight",),
        "attn.q_b.weight": ("self_attn.q_b_proj.weight",),
        "attn.kv_a.weight": ("self_attn.kv_a_proj_with_mqa.weight",),
        "attn.kv_norm.weight": ("self_attn.kv_a_layernorm.weight",),
        "attn.kv_b.weight": ("self_attn.kv_b_proj.weight",),
        "attn.o.weight": ("self_attn.o_proj.weight",),
        "ffn.gate.weight": ("mlp.gate_proj.weight",),
        "ffn.up.weight": ("mlp.up_proj.weight",),
        "ffn.down.weight": ("mlp.down_proj.weight",),
        "ffn.router.weight": ("mlp.gate.weight",),
        "ffn.router.bias": ("mlp.gate.e_score_correction_bias",),
        "ffn.experts.gate_up": (
            "mlp.experts.{e}.gate_proj.weight",
            "mlp.experts.{e}.up_proj.weight",
        ),
        "ffn.experts.down": ("mlp.experts.{e}.down_proj.weight",),
        "ffn.shared.gate.weight": ("mlp.shared_experts.gate_proj.weight",),
        "ffn.shared.up.weight": ("mlp.shared_experts.up_proj.weight",),
        "ffn.shared.down.weight": ("mlp.shared_experts.down_proj.weight",),
    },
    prediction={
        "enorm.weight": ("enorm.weight",),
        "hnorm.weight": ("hnorm.weight",),
        "norm.weight": ("shared_head.norm.weight",),
        "eh_proj.weight": ("eh_proj.weight",),
    },
    fields=COMMON_FIELDS
    | {
        "num_layers": "num_hidden_layers",
        "kv_lora_rank": "kv_lora_rank",
        "qk_nope_head_dim": "qk_nope_head_dim",
        "v_head_dim": "v_head_dim",
        "num_dense_layers": "first_k_dense_replace",
        "intermediate_size": "intermediate_size",
        "num_shared_experts": "n_shared_experts",
        "num_expert_groups": "n_group",
        "num_groups_per_token": "topk_group",
    },
    fixed=COMMON_FIXED | {"scoring_func": "sigmoid", "moe_layer_freq": 1, "rope_interleave": True},
    neutral={},
    handled=COMMON_HANDLED,
    shown=frozenset({"head_dim", "qk_head_dim"}),
)

LAYER_NAMES = {
    "swa": "sliding_attention",
    "csa": "compressed_sparse_attention",
    "hca": "heavily_compressed_attention",
}
DTYPE_NAMES = {
    torch.float32: ("float32", "fp32"),
    torch.bfloat16: ("bfloat16", "bf16"),
    torch.float16: ("float16", "fp16"),
}
PART = re.compile(r"(?:layers\.(\d+)\.|mtp\.(\d+)\.(block\.)?)?(.+)")
FLOAT32 = re.compile(r"(norm\.weight|_hc\.\w+|stream_head\.\w+|sinks|position_bias|router\.bias)$")


# Names of tensors


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
        found[_layout(config).network["head.weight"][0]] = head
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


def _layout(config: Config) -> Layout:
    return V4 if isinstance(config, V4Config) else MLA


def _released(name: str, config: Config) -> tuple[str, tuple[str, ...]]:
    """Return prefix and row of a student's tensor."""
    layout = _layout(config)
    found = PART.fullmatch(name)
    layer, mtp, block, rest = found.groups() if found else (None, None, None, name)
    names = layout.network
    if layer is not None or block is not None:
        names = layout.block
    elif mtp is not None:
        names = layout.prediction
    if rest not in names:
        raise WeightsError(f"{name} has no name in the {layout.model_type} layout.")
    return _prefix(config, layer, mtp), names[rest]


def _prefix(config: Config, layer: str | None, mtp: str | None) -> str:
    if layer is None and mtp is None:
        return ""
    if isinstance(config, V4Config):
        return f"layers.{layer}." if layer is not None else f"mtp.{mtp}."
    index = int(layer) if layer is not None else config.num_layers + int(mtp or 0)
    return f"model.layers.{index}."


# Fields of config.json


def config_json(
    config: Config, vocabulary: Vocabulary, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Return config.json of a student whose matrices are stored in `dtype`.

    Raises:
        WeightsError: the layout cannot say what this config says.
    """
    layout, values = _layout(config), asdict(config)
    if dtype not in DTYPE_NAMES:
        known = ", ".join(name for name, _ in DTYPE_NAMES.values())
        raise WeightsError(f"dtype is {dtype}; students are stored in one of {known}.")
    torch_dtype, expert_dtype = DTYPE_NAMES[dtype]
    said = {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "torch_dtype": torch_dtype,
        "vocab_size": vocabulary.size,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        **{theirs: values[ours] for ours, theirs in layout.fields.items()},
        **layout.fixed,
    }
    if isinstance(config, V4Config):
        # Left unset, engines take the experts for 4-bit ones.
        return said | _v4_fields(config) | {"expert_dtype": expert_dtype}
    said["num_key_value_heads"] = config.num_heads
    if config.num_mtp_layers:
        # transformers skips prediction layers by the number 61; told which files are the model
        # proper, it does not meet them. Others take no notice.
        said["transformers_weights"] = MAIN_INDEX
    return said


def _v4_fields(config: V4Config) -> dict[str, Any]:
    ratios = [config.compression(kind) for kind in config.layer_types]
    hashed = config.num_hash_layers
    return {
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": 1,
        "compress_rope_theta": config.compress_rope_theta,
        "compress_ratios": ratios + [0] * config.num_mtp_layers,
        "compress_rates": {
            LAYER_NAMES["csa"]: config.csa_compression,
            LAYER_NAMES["hca"]: config.hca_compression,
        },
        "layer_types": [LAYER_NAMES[kind] for kind in config.layer_types],
        "num_hash_layers": hashed,
        "mlp_layer_types": ["hash_moe"] * hashed + ["moe"] * (config.num_layers - hashed),
        "partial_rotary_factor": _share(config.qk_rope_head_dim, config.head_dim),
    }


def _share(part: int, whole: int) -> float:
    """Return the fraction that truncates back to `part` of `whole`, as readers compute it."""
    share = part / whole
    return share if int(whole * share) == part else math.nextafter(share, 1.0)


def _rope_scaling(config: Config) -> dict[str, Any] | None:
    yarn = config.yarn
    if yarn is None:
        return None
    said = {
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }
    scale = yarn.mscale_all_dim
    if isinstance(config, MLAConfig):
        # Equal, the two cancel in cosine and sine and only the softmax scale is corrected.
        said |= {"mscale": scale, "mscale_all_dim": scale}
        return said if scale else said | {"attention_factor": 1.0}
    if scale:
        raise WeightsError(
            f"yarn.mscale_all_dim is {scale}; the {V4.model_type} layout has no such correction, "
            "so set it to 0."
        )
    return said


def config_of(fields: Fields) -> tuple[Config, Vocabulary]:
    """Return what a config.json describes: one of ours, or a released one.

    Raises:
        WeightsError: names the field, its value and the rule it breaks.
    """
    layout = _family(fields)
    _refuse_quantised(fields)
    _refuse_unknown(fields, layout)
    for name, value in {**layout.fixed, **layout.neutral}.items():
        if name in fields and fields[name] != value:
            raise _refused(fields, name, f"a {layout.model_type} student has {value!r} there")
    read = _read(fields, layout)
    try:
        config = _v4_config(fields, read) if layout is V4 else _mla_config(fields, read)
        return config, _vocabulary(fields)
    except (ConfigError, OverflowError) as error:  # a number beyond all floats is no size either
        raise WeightsError(f"config.json: {error}") from error


def _refused(fields: Fields, name: str, rule: str) -> WeightsError:
    return WeightsError(f"config.json: {name} is {fields.get(name)!r}; {rule}.")


def _need(fields: Fields, name: str) -> Any:
    if name not in fields:
        raise WeightsError(f"config.json: {name} is missing; a student cannot be built without.")
    return fields[name]


def _whole(fields: Fields, name: str) -> int:
    value = _need(fields, name)
    if type(value) is not int or value < 0:
        raise _refused(fields, name, "it must be a whole number")
    return value


def _listed(fields: Fields, name: str) -> list[Any] | None:
    value = fields.get(name)
    if not isinstance(value, list | None):
        raise _refused(fields, name, "it must be a list")
    return value


def _pairs(fields: Fields, name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    if not isinstance(value, dict | None):
        raise _refused(fields, name, "it must be names and values")
    return value


def _number(fields: Fields, name: str, default: float) -> float:
    """Return a number that `fields` may leave to its readers, who take null as leaving it."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(fields, name, "it must be a finite number")
    return value


def _family(fields: Fields) -> Layout:
    for layout in (V4, MLA):
        if fields.get("model_type") == layout.model_type:
            break
    else:
        known = f"a student is of {MLA.model_type} or {V4.model_type}"
        raise _refused(fields, "model_type", known)
    if fields.get("architectures") not in (None, [layout.architecture]):
        raise _refused(fields, "architectures", f"a student is a {layout.architecture}")
    return layout


def _refuse_quantised(fields: Fields) -> None:
    ask = "dequantise the checkpoint to bfloat16 first"
    if fields.get("quantization_config") is not None:
        raise _refused(fields, "quantization_config", f"students are not quantised, so {ask}")
    plain = {name for names in DTYPE_NAMES.values() for name in names}
    if fields.get("expert_dtype") not in (None, *plain):
        raise _refused(fields, "expert_dtype", f"experts are stored as plain numbers, so {ask}")


def _refuse_unknown(fields: Fields, layout: Layout) -> None:
    known = {"architectures", *layout.fields.values(), *layout.fixed, *layout.neutral}
    known |= layout.handled | layout.shown | HARMLESS
    for name, value in fields.items():
        if name not in known and value is not None:
            raise _refused(
                fields, name, f"a {layout.model_type} student knows no such field, and nothing "
                "is left out of a network unsaid"
            )  # fmt: skip


def _read(fields: Fields, layout: Layout) -> dict[str, Any]:
    """Return the fields that are merely called something else, by the student's names."""
    read = {}
    for ours, theirs in layout.fields.items():
        if theirs in DEFAULTED and theirs not in fields:
            continue
        value = (
            fields.get(theirs, OPTIONAL[theirs]) if theirs in OPTIONAL else _need(fields, theirs)
        )
        if value is None and not (theirs == "q_lora_rank" and layout is MLA):
            raise _refused(fields, theirs, "give its value")
        if theirs == "tie_word_embeddings" and not isinstance(value, bool):
            raise _refused(fields, theirs, "it must be true or false")
        read[ours] = value
    return read


def _vocabulary(fields: Fields) -> Vocabulary:
    return Vocabulary(
        size=_whole(fields, "vocab_size"),
        bos=_whole(fields, "bos_token_id"),
        eos=_whole(fields, "eos_token_id"),
        pad=None if fields.get("pad_token_id") is None else _whole(fields, "pad_token_id"),
    )


def _mla_config(fields: Fields, read: dict[str, Any]) -> MLAConfig:
    heads = read["num_heads"]
    if fields.get("num_key_value_heads") not in (None, heads):
        rule = f"latent attention has as many as num_attention_heads ({heads})"
        raise _refused(fields, "num_key_value_heads", rule)
    rope = _rope(fields)
    theta = _agreed("rope_theta", rope, fields)
    return MLAConfig(**read, rope_theta=theta, yarn=_yarn(rope, MLA))


def _v4_config(fields: Fields, read: dict[str, Any]) -> V4Config:
    if fields.get("num_key_value_heads") not in (None, 1):
        raise _refused(fields, "num_key_value_heads", "all heads share one key and value")
    rope = _rope(fields)
    nested = "main" in rope or "compress" in rope
    # In a flat dict the base is the plain one; layers with entries have a field for theirs.
    main = _pairs(rope, "main") or {} if nested else {}
    compress = _pairs(rope, "compress") or {} if nested else rope
    if _yarn(main, V4) is not None:
        raise _refused(main, "rope_type", "only layers with compressed entries are stretched")
    for part in (fields, main, compress):
        _check_share(part, read["qk_rope_head_dim"], read["head_dim"])
    plain, own = (main, compress) if nested else (rope, {})
    return V4Config(
        **read,
        **_layers(fields),
        rope_theta=_agreed("rope_theta", plain, fields),
        compress_rope_theta=_agreed("rope_theta", own, fields, "compress_rope_theta"),
        yarn=_yarn(compress, V4),
    )


def _check_share(fields: Fields, part: int, whole: int) -> None:
    share = _number(fields, "partial_rotary_factor", math.nan)
    if isinstance(whole, int) and not math.isnan(share) and int(whole * share) != part:
        rule = f"qk_rope_head_dim is {part} of {whole}"
        raise _refused(fields, "partial_rotary_factor", rule)


def _layers(fields: Fields) -> dict[str, Any]:
    """Return what kind each layer of a V4 student is of, in attention and in routing."""
    count = _whole(fields, "num_hidden_layers")
    csa, hca = LAYER_NAMES["csa"], LAYER_NAMES["hca"]
    rates = _pairs(fields, "compress_rates") or {csa: 4, hca: 128}
    if set(rates) != {csa, hca}:
        raise _refused(fields, "compress_rates", f"it must name {csa} and {hca}")
    rate = {"swa": 0, "csa": _whole(rates, csa), "hca": _whole(rates, hca)}
    kinds = _kinds(fields, rate, count)
    if len(kinds) != count:
        raise _refused(fields, "num_hidden_layers", f"{len(kinds)} layers are described")
    ratios = _listed(fields, "compress_ratios")
    if ratios is not None and ratios[:count] != [rate[kind] for kind in kinds]:
        raise _refused(fields, "compress_ratios", "layer_types and compress_rates say otherwise")
    return {
        "layer_types": tuple(kinds),
        "csa_compression": rate["csa"],
        "hca_compression": rate["hca"],
        "num_hash_layers": _hash_layers(fields, count),
    }


def _kinds(fields: Fields, rate: Mapping[str, int], count: int) -> list[str]:
    """Return the kind of attention of each layer, from its name or else its compression."""
    ratios, names = _listed(fields, "compress_ratios"), _listed(fields, "layer_types")
    if ratios is not None:
        _check_ratios(fields, ratios, rate, count)
    if names is not None:
        of_name = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
        if any(name not in list(of_name) for name in names):
            raise _refused(fields, "layer_types", f"they must be of {', '.join(of_name)}")
        return [of_name[name] for name in names]
    if ratios is None:
        raise WeightsError("config.json: compress_ratios is missing; it names each layer's kind.")
    if rate["csa"] == rate["hca"]:
        rule = "two kinds compress alike, so layer_types must tell them apart"
        raise _refused(fields, "compress_rates", rule)
    of_rate = {ratio: kind for kind, ratio in rate.items()}
    return [of_rate[ratio] for ratio in ratios[:count]]


def _check_ratios(
    fields: Fields, ratios: Sequence[Any], rate: Mapping[str, int], count: int
) -> None:
    """See that layers compress by what their kinds do, and prediction layers not at all."""
    ahead = _whole({**OPTIONAL, **fields}, "num_nextn_predict_layers")
    if len(ratios) != count + ahead:
        rule = f"{count} layers and {ahead} prediction layers need {count + ahead}"
        raise _refused(fields, "compress_ratios", rule)
    for layer, ratio in enumerate(ratios):
        known = [0] if layer >= count else sorted(rate.values())
        if ratio not in known:
            rule = f"it must be {' or '.join(map(str, known))}"
            after = ", for prediction layers have a window only" if layer >= count else ""
            raise WeightsError(
                f"config.json: compress_ratios[{layer}] is {ratio!r}; {rule}{after}."
            )


def _hash_layers(fields: Fields, count: int) -> int:
    """Return how many of the first layers route by token."""
    names = _listed(fields, "mlp_layer_types")
    if names is None:
        return _whole(fields, "num_hash_layers")
    hashed = names.count("hash_moe")
    if names != ["hash_moe"] * hashed + ["moe"] * (count - hashed):
        rule = f"it must be hash_moe for the first layers and moe for the rest of {count}"
        raise _refused(fields, "mlp_layer_types", rule)
    if fields.get("num_hash_layers") not in (None, hashed):
        raise _refused(fields, "num_hash_layers", f"mlp_layer_types says {hashed}")
    return hashed


def _rope(fields: Fields) -> dict[str, Any]:
    old, new = _pairs(fields, "rope_scaling"), _pairs(fields, "rope_parameters")
    if old is not None and new is not None:
        raise _refused(fields, "rope_scaling", "rope_parameters is set too, so keep one of them")
    return (new if old is None else old) or {}


def _agreed(name: str, rope: Fields, fields: Fields, outer: str | None = None) -> float:
    """Return a base of rotary frequencies, which may stand in two places that then agree."""
    outer = outer or name
    within, outside = _number(rope, name, math.nan), _number(fields, outer, math.nan)
    if math.isnan(within) and math.isnan(outside):
        raise WeightsError(f"config.json: {outer} is missing; a student cannot be built without.")
    if within != outside and not math.isnan(within) and not math.isnan(outside):
        raise _refused(fields, outer, f"its rotary positions say {within}")
    return outside if math.isnan(within) else within


ROPE_PLAIN = frozenset({"type", "rope_type", "rope_theta", "partial_rotary_factor"})
ROPE_YARN = ROPE_PLAIN | set(
    "factor original_max_position_embeddings beta_fast beta_slow attention_factor mscale "
    "mscale_all_dim truncate".split()
)


def _yarn(rope: Fields, layout: Layout) -> Yarn | None:
    """Return the stretching of rotary frequencies that a dict of config.json asks for."""
    said = "rope_type" if "rope_type" in rope else "type"  # the older name, which may stand beside
    kind = rope.get(said, "default")
    if kind not in ("default", "yarn"):
        raise _refused(rope, said, "no rotary positions but default and yarn are built")
    if rope.get("type", kind) != kind:
        raise _refused(rope, "type", f"rope_type is {kind}")
    for name in rope:
        if name not in (ROPE_YARN if kind == "yarn" else ROPE_PLAIN) and rope[name] is not None:
            raise _refused(rope, name, f"rotary positions of type {kind} have no such field")
    if kind == "default":
        return None
    if rope.get("truncate", True) is not True:
        raise _refused(rope, "truncate", "the ramp begins and ends at whole dimensions")
    factor, lower = _number(rope, "factor", math.nan), _number(rope, "mscale_all_dim", 0.0)
    if math.isnan(factor):
        raise _refused(rope, "factor", "it must be a number")
    if layout is V4 and lower:
        raise _refused(rope, "mscale_all_dim", f"{V4.model_type} has no such correction")
    _check_amplitude(rope, layout, factor, lower)
    return Yarn(
        factor=factor,
        original_positions=_whole(rope, "original_max_position_embeddings"),
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        mscale_all_dim=lower,
    )


def _check_amplitude(rope: Fields, layout: Layout, factor: float, lower: float) -> None:
    """See that readers of `rope` multiply cosine and sine by 1.

    Some divide one `mscale` by the other, some heed `attention_factor` first, and with neither
    they scale by a logarithm of the factor; in v4 none of it is done.
    """
    if rope.get("attention_factor") not in (None, 1):
        raise _refused(rope, "attention_factor", "cosine and sine are not scaled, so it is 1")
    if _number(rope, "mscale", lower) != lower:
        raise _refused(rope, "mscale", f"it must be mscale_all_dim ({lower}), as in the release")
    unsaid = rope.get("attention_factor") is None and not (lower and rope.get("mscale"))
    if layout is MLA and factor > 1 and unsaid:
        rule = "without it and mscale_all_dim, attention_factor must be 1"
        raise _refused(rope, "mscale", rule)
