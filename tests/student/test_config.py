"""The arithmetic of a student's size agrees with what is published and with what is built."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from student.config import StudentConfig, count_parameters, kv_cache_bytes_per_token, presets
from student.errors import ConfigError
from student.model import Vocabulary, build

# DeepSeek-V3 report (arXiv 2412.19437), section 4.2.
DEEPSEEK_V3 = StudentConfig(
    hidden_size=7168,
    num_layers=61,
    num_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_rope_head_dim=64,
    qk_nope_head_dim=128,
    v_head_dim=128,
    num_dense_layers=3,
    intermediate_size=18432,
    num_routed_experts=256,
    num_shared_experts=1,
    num_experts_per_token=8,
    moe_intermediate_size=2048,
)
V3_VOCABULARY = 129_280


def built_parameters(config: StudentConfig, vocab: int) -> int:
    vocabulary = Vocabulary(size=vocab, bos=0, eos=1, pad=2)
    model = build(config, vocabulary, seed=0, device=torch.device("cpu"))
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_student_of_v3_size_has_the_published_parameter_counts():
    counted = count_parameters(DEEPSEEK_V3, V3_VOCABULARY)
    assert counted.total == pytest.approx(671e9, rel=0.01)
    # The weights' own documentation gives 36.7 billion, which the report rounds to 37.
    assert counted.active == pytest.approx(36.7e9, rel=0.01)
    assert round(counted.active / 1e9) == 37


def test_a_student_of_v3_size_caches_70272_bytes_a_token():
    assert kv_cache_bytes_per_token(DEEPSEEK_V3) == 70_272


def test_the_cache_grows_with_the_size_of_a_value():
    assert kv_cache_bytes_per_token(DEEPSEEK_V3, bytes_per_value=4) == 2 * 70_272


@pytest.mark.parametrize("name", ["tiny", "quickstart"])
def test_the_count_is_that_of_the_built_model(name):
    config = presets()[name]
    assert count_parameters(config, 300).total == built_parameters(config, 300)


@pytest.mark.parametrize(
    "change",
    [
        {"tie_word_embeddings": True},
        {"num_dense_layers": 0},
        {"num_dense_layers": 2},
        {"num_shared_experts": 3},
    ],
    ids=str,
)
def test_the_count_follows_the_built_model_through_every_variant(change):
    config = replace(presets()["tiny"], **change)
    assert count_parameters(config, 300).total == built_parameters(config, 300)


def test_a_student_without_mixture_layers_has_only_the_embedding_at_rest():
    config = replace(presets()["tiny"], num_dense_layers=2)
    counted = count_parameters(config, 300)
    assert counted.total - counted.active == 299 * config.hidden_size


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"num_experts_per_token": 9}, "num_experts_per_token", "num_routed_experts (8)"),
        ({"num_dense_layers": 5}, "num_dense_layers", "num_layers (4)"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim", "even"),
    ],
)
def test_an_impossible_student_is_refused_by_field_and_rule(change, field, rule):
    with pytest.raises(ConfigError) as caught:
        StudentConfig(**change)
    assert field in str(caught.value)
    assert rule in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "change", [{"hidden_size": 0}, {"num_routed_experts": 1}, {"rope_theta": 0.0}, {"heads": 2}]
)
def test_a_value_out_of_range_and_an_unknown_field_are_refused(change):
    (field,) = change
    with pytest.raises(ValidationError, match=field):
        StudentConfig(**change)
