"""A student is a function of its config and seed, and all of it learns."""

import pytest
import torch

from student.balance import routers
from student.config import presets
from student.model import Vocabulary, build, head_weight, hidden_states, transformers_config

VOCABULARY = Vocabulary(size=97, bos=3, eos=4, pad=5)
CPU = torch.device("cpu")


def student(seed: int):
    return build(presets()["tiny"], VOCABULARY, seed=seed, device=CPU)


def tokens(batch: int = 4, length: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(6, VOCABULARY.size, (batch, length), generator=generator)


@pytest.fixture(scope="module")
def model():
    return student(0)


def test_the_same_seed_gives_the_same_weights(model):
    other = student(0).state_dict()
    weights = model.state_dict()
    assert weights.keys() == other.keys()
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_another_seed_gives_other_weights(model):
    other = dict(student(1).named_parameters())
    matrices = {n: p for n, p in model.named_parameters() if p.ndim >= 2}
    assert matrices
    assert not any(torch.equal(p, other[name]) for name, p in matrices.items())


def test_building_leaves_the_callers_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    student(0)
    assert torch.equal(torch.rand(3), expected)


def test_weights_are_float32_whatever_the_default():
    assert {p.dtype for p in student(0).parameters()} == {torch.float32}


def test_hidden_states_times_the_head_are_the_models_logits(model):
    with torch.inference_mode():
        ours = hidden_states(model, tokens()) @ head_weight(model).t()
        theirs = model(input_ids=tokens()).logits
    torch.testing.assert_close(ours, theirs)


def test_a_position_does_not_see_what_follows_it(model):
    changed = tokens().clone()
    changed[:, 12:] = 6
    with torch.inference_mode():
        before, after = hidden_states(model, tokens()), hidden_states(model, changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_every_parameter_gets_a_gradient_and_the_routing_bias_is_none_of_them():
    model = student(0)
    logits = hidden_states(model, tokens(16, 64)) @ head_weight(model).t()
    logits.log_softmax(-1).square().mean().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert not [name for name, _ in model.named_parameters() if "correction_bias" in name]


def test_the_network_has_the_layers_experts_and_tokens_that_were_asked_for(model):
    config = presets()["tiny"]
    assert len(model.model.layers) == config.num_layers
    assert len(routers(model)) == config.num_layers - config.num_dense_layers
    assert {r.num_experts for r in routers(model)} == {config.num_routed_experts}
    assert {r.top_k for r in routers(model)} == {config.num_experts_per_token}
    assert head_weight(model).shape == (VOCABULARY.size, config.hidden_size)
    found = model.config
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (3, 4, 5)


def test_the_config_promises_no_multi_token_prediction_layer():
    # Serving engines read this field and would look for weights that are not there.
    written = transformers_config(presets()["tiny"], VOCABULARY).to_dict()
    assert written.get("num_nextn_predict_layers", written.get("num_mtp_layers")) == 0
