"""Teachers that are read, and each thing that no student can inherit, by name."""

import pytest
import torch
from transformers import (
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from student.errors import WarmStartError
from student.warm_start import dense
from tests.fakes.dense import SMALL, teachers

TEACHERS = teachers()


@pytest.mark.parametrize("name", TEACHERS)
def test_heads_are_apart_and_their_products_are_the_models(name):
    model = TEACHERS[name]
    read, config = dense.read(model), model.config
    first, attn = read.layers[0], model.model.layers[0].self_attn
    width = read.numbers.head_dim
    assert first.q_HFD.shape == (config.num_attention_heads, width, 48)
    assert first.k_GFD.shape == (config.num_key_value_heads, width, 48)
    assert read.numbers.biased == (first.q_HF is not None)
    x_D = torch.randn(48, generator=torch.Generator().manual_seed(0))
    made_HF = first.q_HFD @ x_D + (0 if first.q_HF is None else first.q_HF)
    torch.testing.assert_close(made_HF.flatten(), attn.q_proj(x_D), rtol=1e-5, atol=1e-5)
    z_HF = torch.randn(first.o_DHF.shape[1:], generator=torch.Generator().manual_seed(1))
    out_D = torch.einsum("dhf,hf->d", first.o_DHF, z_HF)
    torch.testing.assert_close(out_D, attn.o_proj.weight @ z_HF.flatten(), rtol=1e-4, atol=1e-4)


SLIDING = {"sliding_window": 16, "max_position_embeddings": 64}
REFUSED = [
    (Qwen3Config(**SMALL), "kind 'qwen3': it normalises queries and keys head by head"),
    (MixtralConfig(**SMALL), "kind 'mixtral': it is no dense model"),
    (GemmaConfig(**SMALL), "kind 'gemma': its activation is GELU"),
    (LlamaConfig(**SMALL, hidden_act="gelu"), "activation is 'gelu'; it must be silu"),
    (LlamaConfig(**SMALL, mlp_bias=True), "feed-forward layers have biases"),
    (MistralConfig(**SMALL | SLIDING), "attends to the last 16 tokens alone"),
    (
        Qwen2Config(**SMALL | SLIDING, use_sliding_window=True, max_window_layers=1),
        "attends to the last 16 tokens alone",
    ),
    (
        LlamaConfig(
            **SMALL,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        ),
        "frequencies change with the length of the text",
    ),
]


@pytest.mark.parametrize(("config", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_no_student_can_inherit_is_refused_with_the_reason(config, said):
    with pytest.raises(WarmStartError, match=said) as caught:
        dense.numbers(config)
    assert caught.value.exit_code == 2


def test_a_window_as_long_as_the_context_is_full_attention():
    assert dense.numbers(MistralConfig(**SMALL | {"sliding_window": 64})).kv_heads == 2
