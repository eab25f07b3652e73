"""Named students: the published ones, a ladder a lab would train, and small ones for a laptop.

`tiny` is for tests, `quick-scratch` for a minute of training. `flash` and `pro` are DeepSeek-V4's
published configurations (arXiv 2606.19348, section 4.2.1), `v3` is DeepSeek-V3's (arXiv 2412.19437,
section 4.2). The ladders are ours: either architecture at about 0.1, 0.5 and 2 billion active
parameters with the released vocabulary of 129,280, the head counted whole.
"""

from dataclasses import replace

from student.config import LayerType, MLAConfig, V4Config, Yarn


def presets() -> dict[str, MLAConfig | V4Config]:
    """Return every named student; a `v4-` prefix marks the family where both have one."""
    return {
        "tiny": _tiny(),
        "quick-scratch": MLAConfig(),
        "v4-tiny": _v4_tiny(),
        "v4-quick-scratch": _v4_quick_scratch(),
        "v3": _v3(),
        "flash": _flash(),
        "pro": _pro(),
        **_mla_ladder(),
        **_v4_ladder(),
    }


def _v3() -> MLAConfig:
    return MLAConfig(
        hidden_size=7168,
        num_layers=61,
        num_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        num_dense_layers=3,
        intermediate_size=18_432,
        num_routed_experts=256,
        num_shared_experts=1,
        num_experts_per_token=8,
        num_expert_groups=8,
        num_groups_per_token=4,
        moe_intermediate_size=2048,
        routed_scaling_factor=2.5,
        num_mtp_layers=1,
        max_position_embeddings=163_840,
        rope_theta=10_000.0,
        yarn=Yarn(
            factor=40.0,
            original_positions=4096,
            beta_fast=32.0,
            beta_slow=1.0,
            mscale_all_dim=1.0,
        ),
        initializer_range=0.006,  # the report; the released file says 0.02
    )


def _pro() -> V4Config:
    return V4Config(
        layer_types=("hca", "hca", *("csa", "hca") * 29, "csa"),
        hidden_size=7168,
        num_heads=128,
        head_dim=512,
        qk_rope_head_dim=64,
        q_lora_rank=1536,
        o_groups=16,
        o_lora_rank=1024,
        sliding_window=128,
        csa_compression=4,
        hca_compression=128,
        index_num_heads=64,
        index_head_dim=128,
        index_top_k=1024,
        num_hash_layers=3,
        num_routed_experts=384,
        num_experts_per_token=6,
        moe_intermediate_size=3072,
        routed_scaling_factor=2.5,
        swiglu_limit=10.0,
        hc_streams=4,
        hc_sinkhorn_iterations=20,
        hc_eps=1e-6,
        num_mtp_layers=1,
        max_position_embeddings=1_048_576,
        rope_theta=10_000.0,
        compress_rope_theta=160_000.0,
        yarn=Yarn(factor=16.0, original_positions=65_536, beta_fast=32.0, beta_slow=1.0),
    )


def _flash() -> V4Config:
    return replace(
        _pro(),
        layer_types=("swa", "swa", *("csa", "hca") * 20, "csa"),
        hidden_size=4096,
        num_heads=64,
        q_lora_rank=1024,
        o_groups=8,
        index_top_k=512,
        num_routed_experts=256,
        moe_intermediate_size=2048,
        routed_scaling_factor=1.5,
    )


def _mla_ladder() -> dict[str, MLAConfig]:
    smallest = MLAConfig(
        hidden_size=512,
        num_layers=9,
        num_heads=8,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        num_dense_layers=1,
        intermediate_size=1536,
        num_routed_experts=64,
        num_shared_experts=1,
        num_experts_per_token=6,
        moe_intermediate_size=256,
        routed_scaling_factor=2.5,
        num_mtp_layers=1,
        max_position_embeddings=65_536,
    )
    middle = replace(
        smallest,
        hidden_size=1024,
        num_layers=21,
        num_heads=16,
        q_lora_rank=512,
        kv_lora_rank=256,
        intermediate_size=4096,
        moe_intermediate_size=640,
    )
    largest = replace(
        middle,
        hidden_size=2048,
        num_layers=27,
        q_lora_rank=768,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        intermediate_size=8192,
        num_routed_experts=128,
        moe_intermediate_size=1152,
    )
    return {"mla-0.1b": smallest, "mla-0.5b": middle, "mla-2b": largest}


def _v4_ladder() -> dict[str, V4Config]:
    """Grow as Flash is built: windows alone first, then CSA and HCA in turn, CSA last."""
    smallest = V4Config(
        layer_types=_interleaved(7),
        hidden_size=512,
        num_heads=8,
        head_dim=128,
        qk_rope_head_dim=32,
        q_lora_rank=256,
        o_groups=2,
        o_lora_rank=256,
        index_num_heads=8,
        index_head_dim=64,
        index_top_k=128,
        num_hash_layers=1,
        num_routed_experts=64,
        num_experts_per_token=6,
        moe_intermediate_size=256,
        max_position_embeddings=65_536,
    )
    middle = replace(
        smallest,
        layer_types=_interleaved(17),
        hidden_size=1024,
        num_heads=16,
        q_lora_rank=384,
        o_groups=4,
        index_num_heads=16,
        index_top_k=256,
        num_hash_layers=2,
        moe_intermediate_size=768,
    )
    largest = replace(
        middle,
        layer_types=_interleaved(25),
        hidden_size=2048,
        head_dim=256,
        qk_rope_head_dim=64,
        q_lora_rank=768,
        o_lora_rank=512,
        index_num_heads=32,
        index_head_dim=128,
        index_top_k=512,
        num_hash_layers=3,
        num_routed_experts=128,
        moe_intermediate_size=1280,
    )
    return {"v4-0.1b": smallest, "v4-0.5b": middle, "v4-2b": largest}


def _interleaved(layers: int) -> tuple[LayerType, ...]:
    """Return Flash's pattern for an odd number of layers."""
    return ("swa", "swa", *("csa", "hca") * ((layers - 3) // 2), "csa")


def _tiny() -> MLAConfig:
    return MLAConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        intermediate_size=64,
        num_routed_experts=4,
        moe_intermediate_size=16,
        max_position_embeddings=256,
    )


def _v4_tiny() -> V4Config:
    """Short enough windows and blocks that a text of 64 tokens meets every kind of entry."""
    return V4Config(
        layer_types=("swa", "csa", "hca", "csa"),
        hidden_size=32,
        num_heads=4,
        head_dim=16,
        qk_rope_head_dim=8,
        q_lora_rank=16,
        o_groups=2,
        o_lora_rank=8,
        sliding_window=16,
        csa_compression=4,
        hca_compression=16,
        index_num_heads=2,
        index_head_dim=8,
        index_top_k=4,
        num_hash_layers=1,
        num_routed_experts=4,
        num_experts_per_token=2,
        moe_intermediate_size=16,
        max_position_embeddings=256,
    )


def _v4_quick_scratch() -> V4Config:
    """About as many parameters as `quick-scratch`; text of 256 tokens still needs compression."""
    return V4Config(
        layer_types=("swa", "csa", "hca", "csa"),
        sliding_window=64,
        hca_compression=32,
        index_top_k=16,
        num_mtp_layers=0,  # its loss would be as dear as the head's, most of a step this small
    )
