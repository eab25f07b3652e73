"""The named students are what their names and the reports say."""

from dataclasses import asdict

import pytest

from student.catalogue import presets
from student.config import MLAConfig, V4Config, Yarn
from student.sizes import count_parameters, kv_cache_bytes_per_token

VOCABULARY = 129_280
LADDERS = {"0.1b": 0.1e9, "0.5b": 0.5e9, "2b": 2e9}

# DeepSeek-V4's released configurations: a 0 is the window alone, 4 is CSA, 128 is HCA, and the
# last is the prediction layer's.
FLASH_RATIOS = [0, 0] + [4, 128] * 20 + [4, 0]
PRO_RATIOS = [128, 128] + [4, 128] * 29 + [4, 0]


def ratios(config: V4Config) -> list[int]:
    return [config.compression(kind) for kind in config.layer_types]


def test_the_names_are_these():
    small = ["tiny", "quick-scratch", "v4-tiny", "v4-quick-scratch"]
    ladders = [f"{family}-{size}" for family in ("mla", "v4") for size in LADDERS]
    assert set(presets()) == {*small, "v3", "flash", "pro", *ladders}


@pytest.mark.parametrize("name", presets())
def test_a_prefix_says_the_family_where_both_have_one(name):
    v4 = name.startswith("v4-") or name in ("flash", "pro")
    assert type(presets()[name]) is (V4Config if v4 else MLAConfig)


@pytest.mark.parametrize("name", [f"{f}-{s}" for f in ("mla", "v4") for s in LADDERS])
def test_a_ladder_is_named_after_its_active_parameters(name):
    config = presets()[name]
    counted = count_parameters(config, VOCABULARY)
    assert counted.active == pytest.approx(LADDERS[name.partition("-")[2]], rel=0.15)
    assert counted.total > 3 * counted.active
    assert config.num_mtp_layers == 1


@pytest.mark.parametrize("size", LADDERS)
def test_a_ladder_of_v4_starts_with_windows_and_then_takes_csa_and_hca_in_turn(size):
    config = presets()[f"v4-{size}"]
    kinds = config.layer_types
    assert kinds[:2] == ("swa", "swa")
    assert set(kinds[2::2]) == {"csa"}
    assert set(kinds[3::2]) == {"hca"}
    assert 0 < config.num_hash_layers < config.num_layers


def test_v4_caches_a_tenth_of_what_mla_does_at_the_same_size():
    for size in LADDERS:
        mla, v4 = (kv_cache_bytes_per_token(presets()[f"{f}-{size}"]) for f in ("mla", "v4"))
        assert v4 < 0.11 * mla


def test_flash_is_as_released():
    config = presets()["flash"]
    assert ratios(config) == FLASH_RATIOS[:-1]
    assert asdict(config) | {"layer_types": None} == {
        "family": "v4",
        "layer_types": None,
        "hidden_size": 4096,
        "num_heads": 64,
        "head_dim": 512,
        "qk_rope_head_dim": 64,
        "q_lora_rank": 1024,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "sliding_window": 128,
        "csa_compression": 4,
        "hca_compression": 128,
        "index_num_heads": 64,
        "index_head_dim": 128,
        "index_top_k": 512,
        "num_hash_layers": 3,
        "num_routed_experts": 256,
        "num_experts_per_token": 6,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 1.5,
        "swiglu_limit": 10.0,
        "hc_streams": 4,
        "hc_sinkhorn_iterations": 20,
        "hc_eps": 1e-6,
        "hc_initial_gate": 0.01,  # ours: the release starts from no random weights
        "num_mtp_layers": 1,
        "max_position_embeddings": 1_048_576,
        "rope_theta": 10_000.0,
        "compress_rope_theta": 160_000.0,
        "rope_frequencies": None,
        "yarn": {
            "factor": 16.0,
            "original_positions": 65_536,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 0.0,
        },
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
    }


def test_pro_differs_from_flash_as_released():
    flash, pro = asdict(presets()["flash"]), asdict(presets()["pro"])
    assert ratios(presets()["pro"]) == PRO_RATIOS[:-1]
    changed = {name for name in pro if pro[name] != flash[name]}
    assert {name: pro[name] for name in changed - {"layer_types"}} == {
        "hidden_size": 7168,
        "num_heads": 128,
        "q_lora_rank": 1536,
        "o_groups": 16,
        "index_top_k": 1024,
        "num_routed_experts": 384,
        "moe_intermediate_size": 3072,
        "routed_scaling_factor": 2.5,
    }


def test_pro_has_61_layers_of_which_30_are_csa_the_even_ones_from_the_third():
    kinds = presets()["pro"].layer_types
    assert [layer for layer, kind in enumerate(kinds) if kind == "csa"] == list(range(2, 61, 2))
    assert (len(kinds), kinds.count("hca"), kinds.count("swa")) == (61, 31, 0)


def test_v3_is_as_published():
    assert asdict(presets()["v3"]) == {
        "family": "mla",
        "hidden_size": 7168,
        "num_layers": 61,
        "num_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "num_dense_layers": 3,
        "intermediate_size": 18_432,
        "num_routed_experts": 256,
        "num_shared_experts": 1,
        "num_experts_per_token": 8,
        "num_expert_groups": 8,
        "num_groups_per_token": 4,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5,
        "num_mtp_layers": 1,
        "max_position_embeddings": 163_840,
        "rope_theta": 10_000.0,
        "yarn": asdict(Yarn(factor=40.0, original_positions=4096, mscale_all_dim=1.0)),
        "rope_frequencies": None,
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.006,
        "tie_word_embeddings": False,
    }


def test_tiny_and_quick_scratch_are_what_they_were_when_runs_were_recorded():
    tiny, scratch = presets()["tiny"], presets()["quick-scratch"]
    assert count_parameters(tiny, 300) == (39_248, 26_608, 0)
    assert count_parameters(scratch, 49_152) == (29_139_968, 14_787_840, 0)
    assert (tiny.num_layers, tiny.num_heads, tiny.max_position_embeddings) == (2, 2, 256)
    assert (scratch.num_layers, scratch.num_heads) == (4, 4)


def test_v4_quickstart_is_about_as_large_as_quickstart():
    mla, v4 = (presets()[name] for name in ("quick-scratch", "v4-quick-scratch"))
    one, other = count_parameters(mla, 49_152), count_parameters(v4, 49_152)
    assert other.total + other.mtp == pytest.approx(one.total, rel=0.05)
    assert other.active == pytest.approx(one.active, rel=0.05)


def test_64_tokens_of_v4_tiny_meet_every_part_of_the_architecture():
    config, tokens = presets()["v4-tiny"], 64
    assert set(config.layer_types) == {"swa", "csa", "hca"}
    assert config.sliding_window < tokens
    assert config.index_top_k < tokens // config.csa_compression
    assert tokens // config.hca_compression > 1
    assert config.num_hash_layers == config.num_mtp_layers == 1
