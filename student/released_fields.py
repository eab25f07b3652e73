"""Fields of the released config.json: what they are called, what must stand there, how one is read.

The tables hold DeepSeek-V3 (arXiv 2412.19437) and DeepSeek-V4 (arXiv 2606.19348) as published and
as transformers writes them. A row of `fields` reads: name in the student's config, name in
config.json. What a student cannot be is refused by name, never dropped.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from student.errors import WeightsError

Fields = Mapping[str, Any]


class Layout(NamedTuple):
    """The config.json of a family.

    Attributes:
        model_type: the family's name there.
        architecture: of the network's class there.
        fields: fields of the student's config that are merely called something else.
        fixed: what it must say, for nothing else can be built.
        neutral: what it may say, if it says it in this way.
        handled: fields that are translated one by one, or follow from others.
    """

    model_type: str
    architecture: str
    fields: Mapping[str, str]
    fixed: Fields
    neutral: Fields
    handled: frozenset[str]


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
    "chunk_size_feed_forward id2label label2id problem_type attn_implementation "
    "spiritsafe_inherited".split()
)
OPTIONAL = {
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
TRUTHS = frozenset({"tie_word_embeddings", "attention_bias"})
DEFAULTED = frozenset({"initializer_range", "hc_initial_gate"})  # of a new student's weights only

V4 = Layout(
    model_type="deepseek_v4",
    architecture="DeepseekV4ForCausalLM",
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
    fixed=COMMON_FIXED
    | {"scoring_func": "sqrtsoftplus", "n_shared_experts": 1, "attention_bias": False},
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
)
MLA = Layout(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
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
        "attention_bias": "attention_bias",
    },
    fixed=COMMON_FIXED | {"scoring_func": "sigmoid", "moe_layer_freq": 1, "rope_interleave": True},
    neutral={},
    handled=COMMON_HANDLED | {"head_dim", "qk_head_dim"},
)


def refused(fields: Fields, name: str, rule: str) -> WeightsError:
    """Return the error that says what `name` is and what rule that breaks."""
    return WeightsError(f"config.json: {name} is {fields.get(name)!r}; {rule}.")


def need(fields: Fields, name: str) -> Any:
    """Return what stands under `name`.

    Raises:
        WeightsError: nothing does. So do the functions below, and where it is of another kind.
    """
    if name not in fields:
        raise WeightsError(f"config.json: {name} is missing; a student cannot be built without.")
    return fields[name]


def whole(fields: Fields, name: str) -> int:
    """Return a whole number."""
    value = need(fields, name)
    if type(value) is not int or value < 0:
        raise refused(fields, name, "it must be a whole number")
    return value


def number(fields: Fields, name: str, default: float) -> float:
    """Return a number that `fields` may leave to its readers, who take null as leaving it."""
    value = fields.get(name)
    if value is None:
        return default
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max:
        raise refused(fields, name, "it must be a finite number")
    return value


def listed(fields: Fields, name: str) -> list[Any] | None:
    """Return a list, or None where there is none."""
    value = fields.get(name)
    if not isinstance(value, list | None):
        raise refused(fields, name, "it must be a list")
    return value


def pairs(fields: Fields, name: str) -> dict[str, Any] | None:
    """Return names and values, or None where there are none."""
    value = fields.get(name)
    if not isinstance(value, dict | None):
        raise refused(fields, name, "it must be names and values")
    return value
