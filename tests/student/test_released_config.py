"""A student's config.json says what it is, to transformers too; what cannot be is refused."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV4Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

from student import released_fields
from student.catalogue import presets
from student.config import MLAConfig, V4Config, Yarn
from student.errors import WeightsError
from student.released_config import config_json, config_of
from student.released_layers import LAYER_NAMES
from student.rotary import frequencies
from student.vocabulary import Vocabulary

VOCABULARY = Vocabulary(size=97, bos=3, eos=4, pad=5)
YARN = Yarn(factor=4.0, original_positions=64)
V4 = replace(presets()["v4-tiny"], num_mtp_layers=2)
MLA = replace(presets()["tiny"], num_shared_experts=2, num_mtp_layers=2)

EVERY = {
    **presets(),
    "v4 yarn": replace(V4, yarn=YARN, tie_word_embeddings=True, num_hash_layers=0),
    "v4 all hashed": replace(V4, num_hash_layers=4, num_mtp_layers=0, csa_compression=16),
    "v4 odd share": replace(V4, head_dim=44, qk_rope_head_dim=30, index_head_dim=32),
    "v4 other numbers": replace(
        V4,
        rope_theta=7.0,
        compress_rope_theta=11.0,
        rms_norm_eps=1e-5,
        initializer_range=0.01,
        routed_scaling_factor=2.5,
        swiglu_limit=7.0,
        hc_eps=1e-5,
        hc_initial_gate=0.5,
        hc_streams=2,
        hc_sinkhorn_iterations=5,
        yarn=replace(YARN, beta_fast=16.0, beta_slow=2.0),
    ),
    "v4 listed": replace(
        V4, rope_frequencies=tuple(2.0**-n for n in range(V4.qk_rope_head_dim // 2))
    ),
    "mla yarn": replace(MLA, yarn=YARN, q_lora_rank=None),
    "mla other numbers": replace(
        MLA, rope_theta=7.0, rms_norm_eps=1e-5, initializer_range=0.01, routed_scaling_factor=2.5
    ),
    "mla corrected": replace(MLA, yarn=replace(YARN, mscale_all_dim=0.707)),
    "mla listed": replace(MLA, rope_frequencies=(0.5, 0.5, 0.25, 2.0**-12), attention_bias=True),
    "mla groups": replace(MLA, num_routed_experts=8, num_expert_groups=4, num_groups_per_token=2),
}


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("pad", [5, None])
def test_a_config_comes_back_from_its_json(config, pad):
    vocabulary = replace(VOCABULARY, pad=pad)
    assert config_of(config_json(config, vocabulary)) == (config, vocabulary)


def hf_config(config):
    kind = DeepseekV3Config if isinstance(config, MLAConfig) else DeepseekV4Config
    return kind(**config_json(config, VOCABULARY))


@pytest.mark.parametrize("name", [name for name in EVERY if name != "v3"])
def test_transformers_turns_by_the_same_frequencies(name):
    config = EVERY[name]
    theirs, width = hf_config(config), config.qk_rope_head_dim
    if isinstance(config, MLAConfig):
        rotary = DeepseekV3RotaryEmbedding(theirs)
        assert rotary.attention_scaling == 1.0
        found = {rotary.inv_freq: (config.rope_theta, config.yarn)}
    else:
        rotary = DeepseekV4RotaryEmbedding(theirs)
        found = {
            rotary.main_inv_freq: (config.rope_theta, None),
            rotary.compress_inv_freq: (config.compress_rope_theta, config.yarn),
        }
        assert rotary.main_attention_scaling == rotary.compress_attention_scaling == 1.0
    for their_R, (theta, yarn) in found.items():
        own_R = frequencies(width, theta, yarn)
        if config.rope_frequencies is not None:
            own_R = torch.tensor(config.rope_frequencies)
        torch.testing.assert_close(their_R, own_R, rtol=1e-6, atol=0)


def test_transformers_builds_the_layers_that_were_meant():
    theirs = hf_config(V4)
    assert theirs.layer_types == [LAYER_NAMES[kind] for kind in V4.layer_types]
    assert theirs.mlp_layer_types == ["hash_moe", "moe", "moe", "moe"]
    assert list(theirs.compress_rates.values()) == [V4.csa_compression, V4.hca_compression]
    assert theirs.qk_rope_head_dim == V4.qk_rope_head_dim
    assert theirs.n_shared_experts == 1 and theirs.num_nextn_predict_layers == 2


def test_compress_ratios_name_every_layer_and_end_with_the_prediction_layers():
    said = config_json(V4, VOCABULARY)
    assert said["compress_ratios"] == [0, 4, 16, 4, 0, 0]
    assert (said["num_hidden_layers"], said["num_hash_layers"]) == (4, 1)


@pytest.mark.parametrize(
    ("dtype", "long", "short"),
    [(torch.float32, "float32", "fp32"), (torch.bfloat16, "bfloat16", "bf16")],
)
def test_the_dtype_is_said_and_experts_are_never_taken_for_quantised(dtype, long, short):
    said = config_json(V4, VOCABULARY, dtype)
    assert (said["torch_dtype"], said["expert_dtype"]) == (long, short)


def test_what_the_layout_cannot_say_is_refused():
    with pytest.raises(WeightsError, match=r"dtype is torch\.float64; students are stored in one"):
        config_json(V4, VOCABULARY, torch.float64)


FLASH = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "vocab_size": 129280,
    "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 4096, "num_hidden_layers": 43,
    "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64,
    "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "sliding_window": 128,
    "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512, "num_hash_layers": 3,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6,
    "moe_intermediate_size": 2048, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0,
    "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "hc_mult": 4,
    "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
    "num_nextn_predict_layers": 1, "max_position_embeddings": 1048576, "rope_theta": 10000,
    "compress_rope_theta": 160000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0], "use_cache": True,
    "rope_scaling": {
        "type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
        "beta_fast": 32, "beta_slow": 1,
    },
}  # fmt: skip
V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 129280,
    "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "intermediate_size": 18432,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8,
    "topk_group": 4, "moe_intermediate_size": 2048, "routed_scaling_factor": 2.5, "ep_size": 1,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True,
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "use_cache": True,
    "rms_norm_eps": 1e-6, "initializer_range": 0.02, "num_nextn_predict_layers": 1,
    "max_position_embeddings": 163840, "rope_theta": 10000, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "auto_map": {"AutoConfig": "configuration_deepseek.Config"},
    "rope_scaling": {
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    },
}  # fmt: skip


def test_the_released_configurations_are_read_as_the_published_sizes():
    flash, vocabulary = config_of(FLASH)
    assert flash == presets()["flash"]
    assert vocabulary == Vocabulary(size=129_280, bos=0, eos=1, pad=None)
    v3, _ = config_of(V3)
    assert v3 == replace(presets()["v3"], initializer_range=0.02)


@pytest.mark.parametrize("config", [V4, replace(V4, yarn=YARN), MLA, replace(MLA, yarn=YARN)])
def test_a_config_that_transformers_wrote_itself_is_read(config, tmp_path):
    hf_config(config).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "rope_parameters" in written and "compress_ratios" not in written
    assert config_of(written) == (config, VOCABULARY)


def nested(**changes):
    """Return V4 fields with rotary positions in transformers' form."""
    said = config_json(replace(V4, yarn=YARN), VOCABULARY)
    rope = {"main": {"rope_type": "default"}, "compress": said["rope_scaling"]}
    for name, change in changes.items():
        rope[name] = rope[name] | change
    return said | {"rope_scaling": None, "rope_parameters": rope}


def test_rotary_positions_are_read_in_either_form():
    config = replace(V4, yarn=YARN)
    assert config_of(nested())[0] == config
    bases = {"main": {"rope_theta": 5.0}, "compress": {"rope_theta": 7.0}}
    said = nested(**bases)
    del said["rope_theta"], said["compress_rope_theta"]
    assert config_of(said)[0] == replace(config, rope_theta=5.0, compress_rope_theta=7.0)


def listed_twice(**compress):
    """Return V4 fields with frequencies of its own, the entries' changed."""
    said = config_json(EVERY["v4 listed"], VOCABULARY)
    rope = said["rope_parameters"]
    return said | {"rope_parameters": rope | {"compress": rope["compress"] | compress}}


def test_without_names_kinds_are_read_from_compress_ratios_alone():
    said = config_json(replace(V4, hca_compression=128), VOCABULARY)
    for name in ("layer_types", "compress_rates", "mlp_layer_types"):
        del said[name]
    assert config_of(said)[0] == replace(V4, hca_compression=128)


def test_fields_that_change_no_network_are_read_over():
    said = config_json(MLA, VOCABULARY)
    more = {"use_cache": False, "ep_size": 8, "pretraining_tp": 1, "transformers_version": "5"}
    assert config_of(said | more | {"engram_layer_ids": None})[0] == MLA


YARN_V3 = V3["rope_scaling"]
LONG = {
    "type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0], "factor": 1.0,
    "attention_factor": 1.0, "original_max_position_embeddings": 64,
}  # fmt: skip
REFUSED = [
    (FLASH, {"model_type": "deepseek_v41"}, r"model_type is 'deepseek_v41'; a student is of"),
    (V3, {"model_type": "deepseek_v32"}, r"model_type is 'deepseek_v32'"),
    (V3, {"architectures": ["DeepseekV3Model"]}, r"architectures is \['DeepseekV3Model'\]"),
    (V3, {"quantization_config": {"fmt": "e4m3"}}, r"quantization_config is .*dequantise"),
    (FLASH, {"expert_dtype": "fp4"}, r"expert_dtype is 'fp4'; .*dequantise"),
    (FLASH, {"expert_dtype": "fp8"}, r"expert_dtype is 'fp8'; .*dequantise"),
    (FLASH, {"engram_layer_ids": [1, 14]}, r"engram_layer_ids is \[1, 14\]; .*no such field"),
    (V3, {"index_topk": 2048}, r"index_topk is 2048; a deepseek_v3 student knows no such field"),
    (FLASH, {"scoring_func": "sigmoid"}, r"scoring_func is 'sigmoid'; .*'sqrtsoftplus' there"),
    (V3, {"scoring_func": "softmax"}, r"scoring_func is 'softmax'; .*'sigmoid' there"),
    (V3, {"topk_method": "greedy"}, r"topk_method is 'greedy'; .*'noaux_tc' there"),
    (V3, {"norm_topk_prob": False}, r"norm_topk_prob is False; .*True there"),
    (FLASH, {"norm_topk_prob": None}, r"norm_topk_prob is None; .*True there"),
    (V3, {"rope_interleave": False}, r"rope_interleave is False; .*True there"),
    (V3, {"attention_bias": 1}, r"attention_bias is 1; it must be true or false"),
    (V3, {"rope_scaling": LONG | {"short_factor": None}}, r"short_factor is None; give a positive"),
    (
        V3,
        {"rope_scaling": LONG | {"long_factor": [1.0]}},
        r"long_factor is \[1\.0\]; it must be sh",
    ),
    (V3, {"rope_scaling": LONG | {"attention_factor": None}}, r"attention_factor is None; cosine"),
    (V3, {"rope_scaling": LONG | {"beta_fast": 3}}, r"beta_fast is 3; rotary positions of type lo"),
    (V3, {"rope_scaling": LONG}, r"rope_frequencies has 2 numbers; qk_rope_head_dim \(64\) has 32"),
    (
        FLASH,
        {"rope_scaling": LONG},
        r"type is 'longrope'; no rotary positions but default, yarn and longrope \(of main and com",
    ),
    (
        listed_twice(short_factor=[1.0] * 4, long_factor=[1.0] * 4),
        {},
        r"short_factor is \[1\.0.*layers with and without compressed entries turn by the same",
    ),
    (V3, {"moe_layer_freq": 2}, r"moe_layer_freq is 2; .*1 there"),
    (FLASH, {"attention_bias": True}, r"attention_bias is True; .*False there"),
    (FLASH, {"mlp_bias": True}, r"mlp_bias is True; .*False there"),
    (V3, {"hidden_act": "gelu"}, r"hidden_act is 'gelu'; .*'silu' there"),
    (FLASH, {"n_shared_experts": 2}, r"n_shared_experts is 2; .*1 there"),
    (FLASH, {"num_key_value_heads": 8}, r"num_key_value_heads is 8; all heads share one"),
    (V3, {"num_key_value_heads": 8}, r"num_key_value_heads is 8; latent attention has as many"),
    (V3, {"n_group": None}, r"n_group is None; give its value"),
    (V3, {"tie_word_embeddings": "no"}, r"tie_word_embeddings is 'no'; it must be true or false"),
    (V3, {"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]; it must be a whole number"),
    (V3, {"bos_token_id": None}, r"bos_token_id is None; it must be a whole number"),
    (V3, {"pad_token_id": 129280}, r"pad is 129280; it must be a token of the vocabulary"),
    (V3, {"topk_group": 16}, r"num_groups_per_token is 16, more than num_expert_groups"),
    (FLASH, {"num_hidden_layers": 44}, r"44 layers and 1 prediction layers need 45"),
    (FLASH, {"compress_ratios": FLASH["compress_ratios"] + [0, 0]}, r"1 prediction layers need 44"),
    (
        FLASH,
        {"compress_ratios": [0, 2, *FLASH["compress_ratios"][2:]]},
        r"compress_ratios\[1\] is 2; it must be 0 or 4 or 128\.",
    ),
    (
        FLASH,
        {"compress_ratios": [*FLASH["compress_ratios"][:-1], 4]},
        r"compress_ratios\[43\] is 4; it must be 0, for prediction layers have a window only",
    ),
    (FLASH, {"compress_ratios": None}, r"compress_ratios is missing"),
    (FLASH, {"layer_types": ["full_attention"] * 43}, r"layer_types is .*they must be of sliding"),
    (FLASH, {"layer_types": ["sliding_attention"] * 43}, r"compress_ratios is .*say otherwise"),
    (FLASH, {"layer_types": ["sliding_attention"] * 42}, r"num_hidden_layers is 43; 42 layers"),
    (FLASH, {"compress_rates": {"csa": 4}}, r"compress_rates is .*it must name compressed_sparse"),
    (FLASH, {"mlp_layer_types": ["moe"] * 42 + ["hash_moe"]}, r"mlp_layer_types is .*hash_moe for"),
    (FLASH, {"mlp_layer_types": ["moe"] * 43}, r"num_hash_layers is 3; mlp_layer_types says 0"),
    (FLASH, {"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5; qk_rope_head_dim is"),
    (FLASH, {"rope_parameters": {}}, r"rope_scaling is .*rope_parameters is set too"),
    (V3, {"rope_scaling": {"rope_type": "llama3"}}, r"rope_type is 'llama3'; no rotary positions"),
    (V3, {"rope_scaling": {"type": "linear", "factor": 2}}, r"type is 'linear'; no rotary"),
    (V3, {"rope_scaling": {"factor": 2}}, r"factor is 2; rotary positions of type default have"),
    (V3, {"rope_scaling": YARN_V3 | {"rope_type": "default"}}, r"type is 'yarn'; rope_type is def"),
    (V3, {"rope_scaling": YARN_V3 | {"factor": None}}, r"factor is None; it must be a number"),
    (V3, {"rope_scaling": YARN_V3 | {"short_factor": [1]}}, r"short_factor is \[1\]; rotary"),
    (V3, {"rope_scaling": YARN_V3 | {"truncate": False}}, r"truncate is False; the ramp begins"),
    (V3, {"rope_scaling": YARN_V3 | {"mscale": 0.5}}, r"mscale is 0\.5; it must be mscale_all_dim"),
    (V3, {"rope_scaling": YARN_V3 | {"attention_factor": 1.3}}, r"attention_factor is 1\.3; cos"),
    (
        V3,
        {"rope_scaling": {k: v for k, v in YARN_V3.items() if "mscale" not in k}},
        r"mscale is None; without it and mscale_all_dim, attention_factor must be 1",
    ),
    (
        FLASH,
        {"rope_scaling": FLASH["rope_scaling"] | {"mscale_all_dim": 1.0}},
        r"mscale_all_dim is 1\.0; it must be 0, for v4 does not correct",
    ),
    (V3, {"rope_scaling": YARN_V3 | {"rope_theta": 5.0}}, r"rope_theta is 10000; its rotary posi"),
    (nested(compress={"rope_theta": 5.0}), {}, r"compress_rope_theta is 160000\.0; its rotary"),
    (nested(main=FLASH["rope_scaling"] | {"rope_type": "yarn"}), {}, r"only layers with compress"),
    (nested(main={"partial_rotary_factor": 0.1}), {}, r"partial_rotary_factor is 0\.1"),
]


@pytest.mark.parametrize(("fields", "change", "message"), REFUSED)
def test_what_a_student_cannot_be_is_refused_by_field_and_value(fields, change, message):
    with pytest.raises(WeightsError, match=message) as caught:
        config_of(fields | change)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [FLASH, V3, nested(), config_json(V4, VOCABULARY)])
def test_a_missing_field_is_named_or_has_one_meaning(fields):
    free = {
        "architectures", "initializer_range", "hc_initial_gate", "num_nextn_predict_layers",
        "layer_types", "compress_rates", "compress_ratios", "num_hash_layers", "mlp_layer_types",
        "partial_rotary_factor", "num_key_value_heads",
    }  # fmt: skip
    free |= {*released_fields.V4.fixed, *released_fields.MLA.fixed}
    for name in set(fields) - free - released_fields.HARMLESS - released_fields.COMMON_HANDLED:
        if name == "tie_word_embeddings":
            continue
        with pytest.raises(WeightsError, match=f"{name} is missing"):
            config_of({key: value for key, value in fields.items() if key != name})


def places_within(fields: dict, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in fields.items():
        found.append((*before, name))
        if isinstance(value, dict):
            found += places_within(value, (*before, name))
    return found


@pytest.mark.parametrize("fields", [FLASH, V3, nested(), config_json(V4, VOCABULARY)])
def test_a_value_of_the_wrong_kind_is_refused_or_read_never_another_error(fields):
    strange = (None, "x", [], {}, -1, 1.5, True, [[1]], [{}], {"a": [1]}, math.nan, 10**400)
    refusals = 0
    for *outer, name in places_within(fields):
        for value in strange:
            changed = copy.deepcopy(fields)
            inner = changed
            for key in outer:
                inner = inner[key]
            inner[name] = value
            try:
                found, _ = config_of(changed)
            except WeightsError:
                refusals += 1
            else:
                assert isinstance(found, MLAConfig | V4Config)
    assert refusals > len(fields)
