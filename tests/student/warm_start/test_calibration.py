"""What layers read is what transformers fed them, and attention is its own."""

import pytest
import torch

from student.warm_start import calibration, dense
from tests.fakes.dense import teachers, text

TEACHERS = teachers()
EVERY = pytest.mark.parametrize("name", TEACHERS)


@EVERY
def test_inputs_are_those_of_the_layers_and_the_hooks_are_gone(name):
    model, token_BS = TEACHERS[name], text(3, 16)
    seen, read = calibration.watch(model, token_BS), dense.read(model)
    kept: dict[str, torch.Tensor] = {}
    layer = model.model.layers[1]
    hooks = [
        layer.self_attn.q_proj.register_forward_pre_hook(lambda _, x: kept.update(attn=x[0])),
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, x: kept.update(ffn=x[0])),
    ]
    model(input_ids=token_BS)
    for hook in hooks:
        hook.remove()
    for part, found in (("attn", seen.attention(read, 1)), ("ffn", seen.network(read, 1))):
        torch.testing.assert_close(found.float(), kept[part].flatten(0, 1), rtol=1e-4, atol=1e-4)
    norms = [layer.input_layernorm, layer.post_attention_layernorm, model.model.norm]
    assert not any(norm._forward_pre_hooks for norm in norms)


@EVERY
def test_weights_are_the_attention_that_transformers_gives_a_token(name):
    model, token_BS = TEACHERS[name], text(3, 16)
    read, seen = dense.read(model), calibration.watch(model, token_BS)
    model.set_attn_implementation("eager")
    given_BHSS = model(input_ids=token_BS, output_attentions=True).attentions[1]
    expected_N = given_BHSS.sum((1, 2)).flatten().double()
    x_ND = seen.attention(read, 1)
    found_N = calibration.attended(read, read.layers[1], x_ND, 3, 1.0)
    torch.testing.assert_close(found_N, expected_N / expected_N.sum(), rtol=1e-3, atol=1e-5)
    half_N = calibration.attended(read, read.layers[1], x_ND, 3, 0.5)
    torch.testing.assert_close(half_N, 0.5 * found_N + 0.5 / 48, rtol=1e-6, atol=1e-9)


def test_a_measure_has_the_moments_of_its_inputs_and_a_one():
    x_ND = torch.randn(2500, 4, generator=torch.Generator().manual_seed(0)).double()
    weight_N = torch.rand(2500, generator=torch.Generator().manual_seed(1)).double()
    weight_N /= weight_N.sum()
    made = calibration.measure(x_ND, weight_N)
    one_NC = torch.cat((x_ND, torch.ones(2500, 1)), 1)
    torch.testing.assert_close(made.even_CC, one_NC.T @ one_NC / 2500, rtol=1e-5, atol=1e-6)
    given_CC = (one_NC * weight_N[:, None]).T @ one_NC
    torch.testing.assert_close(made.given_CC, given_CC, rtol=1e-5, atol=1e-6)
