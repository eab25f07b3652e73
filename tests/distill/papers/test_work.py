"""Operations: a teacher's are those torch counts, a student's those of its own arithmetic."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from distill.papers import work
from student import sizes
from student.catalogue import presets

TOKENS = 16
COMMON = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
TEACHERS = {
    "llama": LlamaConfig(**COMMON),
    "llama, head tied": LlamaConfig(**COMMON, tie_word_embeddings=True),
    "gemma2, wide heads": Gemma2Config(**COMMON, head_dim=16),
    "gpt-oss, experts with biases": GptOssConfig(
        **COMMON, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "mixtral": MixtralConfig(**COMMON, num_local_experts=4, num_experts_per_tok=2),
    "qwen3 moe": Qwen3MoeConfig(**COMMON, **EXPERTS, num_experts=4, decoder_sparse_step=1),
    "deepseek v3": DeepseekV3Config(**{**COMMON, **LATENT, **EXPERTS}, n_shared_experts=1),
}


def built(config: PretrainedConfig) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.set_experts_implementation("eager")
    return model.eval()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_takes_the_operations_that_torch_counts(name):
    config = TEACHERS[name]
    model = built(config)
    tokens = torch.arange(TOKENS)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    # torch computes whole squares of attention and masks them: the same as a reach of all tokens.
    line = work.teacher_forward(
        name, shapes(model), config.to_dict(), sequence_tokens=2 * TOKENS - 1, tokens=TOKENS
    )
    assert line.inputs["reach"] == TOKENS
    assert line.value == counter.get_total_flops()


def test_attention_reaches_half_of_a_sequence_on_average():
    config = TEACHERS["llama"]
    there = shapes(built(config))
    long, short = (
        work.teacher_forward("t", there, config.to_dict(), sequence_tokens=n, tokens=1)
        for n in (201, 101)
    )
    widths = 2 * 4 * 16  # of keys and values, in layers of heads
    assert long.value - short.value == 2 * 50 * widths


def test_a_teacher_whose_config_does_not_say_enough_stays_unknown():
    there = shapes(built(TEACHERS["mixtral"]))
    config = TEACHERS["mixtral"].to_dict() | {"num_local_experts": None, "vocab_size": None}
    line = work.teacher_forward("t", there, config, sequence_tokens=8, tokens=8)
    assert line.value is None
    assert line.unknown == "its config.json does not say what gives idle, head"


def test_a_text_model_inside_another_is_counted_by_its_own_config():
    config = TEACHERS["llama"]
    there, inner = shapes(built(config)), config.to_dict()
    plain, nested = (
        work.teacher_forward("t", there, c, sequence_tokens=8, tokens=8)
        for c in (inner, {"model_type": "seen", "text_config": inner})
    )
    assert nested == plain


@pytest.mark.parametrize("name", ["tiny", "v4-tiny"])
def test_a_students_training_is_three_forward_passes_of_its_own_arithmetic(name):
    config = presets()[name]
    line = work.student_training(config, 320, sequence_tokens=32, tokens=640)
    expected = 640 * sizes.training_flops_per_token(config, 320, 32)
    assert line.value == pytest.approx(expected, rel=1e-12)
    assert line.inputs["passes"] == 3


def test_recomputing_is_a_pass_of_its_own():
    config = presets()["tiny"]
    plain, again = (
        work.student_training(config, 320, sequence_tokens=32, tokens=7, recompute=recompute)
        for recompute in (False, True)
    )
    assert again.value == pytest.approx(plain.value * 4 / 3)
    assert "recompute" in again.source and "recompute" not in plain.source


@pytest.mark.parametrize("name", ["tiny", "v4-tiny"])
def test_a_forward_pass_is_the_mean_over_a_sequence_and_the_head_where_it_is_applied(name):
    config = presets()[name]
    line = work.student_forward(
        config, 320, sequence_tokens=32, positions=32, applied=32, doing="writing"
    )
    by_position = [sizes.forward_flops_per_token(config, 320, n).total for n in range(1, 33)]
    assert line.value == pytest.approx(sum(by_position))
    assert line.name == "Student, writing"
    fewer = work.student_forward(
        config, 320, sequence_tokens=32, positions=32, applied=5, doing="writing"
    )
    assert line.value - fewer.value == pytest.approx(27 * 2 * 320 * config.hidden_size)


def test_a_teachers_head_is_counted_where_it_is_applied():
    config = TEACHERS["llama"]
    there = shapes(built(config))
    both, body, head = (
        work.teacher_forward("t", there, config.to_dict(), sequence_tokens=9, **tokens)
        for tokens in ({"tokens": 7}, {"tokens": 7, "applied": 0}, {"tokens": 0, "applied": 7})
    )
    assert head.value == 7 * 2 * config.vocab_size * config.hidden_size
    assert both.value == body.value + head.value


def test_passes_that_nobody_counted_have_no_amount():
    line = work.unrecorded("far, answering", "its tokens are not kept")
    assert line.value is None and line.unknown == "its tokens are not kept"


def test_what_a_served_teacher_took_is_unknown():
    line = work.served("far", tokens=9)
    assert line.value is None and "is served" in line.unknown
