"""Loads are counted exactly, and the bias evens them out without being trained."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from student.balance import learned_loads, shares, update_bias
from student.catalogue import presets
from student.documents import Documents
from student.model import Student
from student.moe import HashRouter, Mixture, Router
from student.vocabulary import Vocabulary

VOCABULARY = Vocabulary(size=61, bos=0, eos=1, pad=2)
CPU = torch.device("cpu")
CONFIGS = {"mla": replace(presets()["tiny"], num_layers=3), "v4": presets()["v4-tiny"]}
DOCUMENTS = Documents.rows(4, 32, CPU)
TOKENS = torch.randint(3, VOCABULARY.size, (128,), generator=torch.Generator().manual_seed(0))


def student(family: str, seed: int = 0) -> Student:
    return Student.build(CONFIGS[family], VOCABULARY, seed=seed, device=CPU)


def routers(model: Student) -> list[Router]:
    found = [b.ffn.router for b in model.blocks() if isinstance(b.ffn, Mixture)]
    return [router for router in found if isinstance(router, Router)]


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_loads_are_those_of_a_hand_count(family):
    output = student(family)(TOKENS, DOCUMENTS, ahead=True)
    config = CONFIGS[family]
    for load_E, expert_NK in zip(output.loads, output.choices.experts, strict=True):
        assert (load_E is None) == (expert_NK is None)
        if load_E is not None:
            count = Counter(expert_NK.flatten().tolist())
            assert load_E.tolist() == [float(count[e]) for e in range(config.num_routed_experts)]


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_the_bias_moves_by_the_speed_towards_the_mean_and_nothing_else_moves(family):
    model = student(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = model(TOKENS, DOCUMENTS, ahead=True)
    update_bias(model, output.loads, 0.25)
    for router, load_E in zip(routers(model), learned_loads(model, output.loads), strict=True):
        mean = load_E.mean()
        expected = [0.25 if load < mean else -0.25 if load > mean else 0.0 for load in load_E]
        assert router.bias.tolist() == expected
    moved = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert moved and all(name.endswith("router.bias") for name in moved)


@torch.no_grad()
def test_layers_that_did_not_run_keep_their_bias():
    model = student("v4")
    update_bias(model, model(TOKENS, DOCUMENTS).loads, 0.25)
    *ran, predictor = routers(model)
    assert all(router.bias.any() for router in ran)
    assert not predictor.bias.any()


def test_a_table_is_not_balanced_by_a_bias():
    model = student("v4")
    first = next(iter(model.blocks())).ffn.router
    assert isinstance(first, HashRouter)
    assert "bias" not in dict(first.named_buffers())
    loads = model(TOKENS, DOCUMENTS).loads
    assert len(learned_loads(model, loads)) == sum(load is not None for load in loads) - 1


def test_the_bias_is_float32_saved_and_no_parameter():
    model = student("mla")
    assert all(router.bias.dtype == torch.float32 for router in routers(model))
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert sum(name.endswith("router.bias") for name in model.state_dict()) == 2


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_the_bias_evens_the_load_of_fixed_weights(family):
    model = student(family, seed=2)
    for block in model.blocks():  # so lopsided that some experts are hardly chosen
        if isinstance(block.ffn, Mixture):
            block.ffn.router.weight.mul_(30)

    def unevenness() -> float:
        loads = learned_loads(model, model(TOKENS, DOCUMENTS, ahead=True).loads)
        return max(float(load.max() / load.mean()) for load in loads)

    before = unevenness()
    for _ in range(150):
        update_bias(model, model(TOKENS, DOCUMENTS, ahead=True).loads, 0.01)
    assert before > 1.2
    assert unevenness() < before - 0.1


def test_shares_sum_to_one_a_layer_and_experts_without_tokens_have_none():
    loads = [torch.tensor([6.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 0.0])]
    assert shares(loads) == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]
    assert shares([]) == []
