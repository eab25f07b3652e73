"""Build the network of a student, and the two calls training makes of it.

The network is transformers' `DeepseekV3ForCausalLM` (multi-head latent attention, mixture of
experts with bias routing). Weights are drawn on the CPU from a seed and moved to the device, so
the same seed is the same student on every stack.

Shapes: B sequences, S tokens a sequence, D hidden_size, V vocabulary.
"""

from dataclasses import dataclass

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from student import device as devices
from student.config import StudentConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Size and special tokens of the tokenizer a student is built for."""

    size: int
    bos: int
    eos: int
    pad: int


def transformers_config(config: StudentConfig, vocabulary: Vocabulary) -> DeepseekV3Config:
    """Translate a student into the field names of the released `deepseek_v3` layout."""
    return DeepseekV3Config(
        vocab_size=vocabulary.size,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        pad_token_id=vocabulary.pad,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=config.kv_lora_rank,
        qk_rope_head_dim=config.qk_rope_head_dim,
        qk_nope_head_dim=config.qk_nope_head_dim,
        v_head_dim=config.v_head_dim,
        first_k_dense_replace=config.num_dense_layers,
        intermediate_size=config.intermediate_size,
        n_routed_experts=config.num_routed_experts,
        n_shared_experts=config.num_shared_experts,
        num_experts_per_tok=config.num_experts_per_token,
        moe_intermediate_size=config.moe_intermediate_size,
        routed_scaling_factor=config.routed_scaling_factor,
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        # The layout's default is 1: engines would look for a prediction layer that is not built.
        num_nextn_predict_layers=0,
    )


def build(
    config: StudentConfig, vocabulary: Vocabulary, *, seed: int, device: torch.device
) -> DeepseekV3ForCausalLM:
    """Return a freshly initialised student in float32; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DeepseekV3ForCausalLM(transformers_config(config, vocabulary))
    if not devices.has_grouped_experts(device):
        model.set_experts_implementation("eager")
    return model.to(device)


def hidden_states(model: DeepseekV3ForCausalLM, tokens_BS: torch.Tensor) -> torch.Tensor:
    """Return the final normed hidden states `[B, S, D]` of right-aligned, unpadded tokens."""
    return model.model(input_ids=tokens_BS, use_cache=False).last_hidden_state


def head_weight(model: DeepseekV3ForCausalLM) -> torch.nn.Parameter:
    """Return the output projection `[V, D]`."""
    return model.lm_head.weight
