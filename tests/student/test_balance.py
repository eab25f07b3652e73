"""Loads are counted exactly, and the bias evens them out without being trained."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from student.balance import LoadMeter, routers, update_bias
from student.config import presets
from student.model import Vocabulary, build, hidden_states

VOCABULARY = Vocabulary(size=61, bos=0, eos=1, pad=2)
CONFIG = replace(presets()["tiny"], num_layers=3)
CPU = torch.device("cpu")


def student(seed: int = 0):
    return build(CONFIG, VOCABULARY, seed=seed, device=CPU)


def tokens(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY.size, (4, 32), generator=generator)


def chosen_by_hand(model, batch: torch.Tensor) -> list[Counter]:
    """Return what each router chose, counted in Python from its own output."""
    counts = [Counter() for _ in routers(model)]
    handles = []
    for count, router in zip(counts, routers(model), strict=True):
        hook = lambda _m, _i, out, count=count: count.update(out[2].flatten().tolist())  # noqa: E731
        handles.append(router.register_forward_hook(hook))
    hidden_states(model, batch)
    for handle in handles:
        handle.remove()
    return counts


def unevenness(meter: LoadMeter) -> float:
    """Return the heaviest expert's load over the mean load, averaged over layers."""
    return float((meter.counts_LE.max(-1).values / meter.counts_LE.mean(-1)).mean())


@torch.no_grad()
def test_counts_are_those_of_a_hand_count():
    model = student()
    meter = LoadMeter(model)
    with meter:
        hidden_states(model, tokens())
    by_hand = chosen_by_hand(model, tokens())
    experts = range(CONFIG.num_routed_experts)
    assert meter.counts_LE.tolist() == [[float(c[e]) for e in experts] for c in by_hand]
    assert meter.counts_LE.sum(-1).tolist() == [tokens().numel() * CONFIG.num_experts_per_token] * 2


@torch.no_grad()
def test_counts_add_up_until_they_are_reset():
    model = student()
    meter = LoadMeter(model)
    with meter:
        hidden_states(model, tokens())
        once = meter.counts_LE.clone()
        hidden_states(model, tokens())
        assert torch.equal(meter.counts_LE, 2 * once)
        meter.reset()
    assert not meter.counts_LE.any()


@torch.no_grad()
def test_shares_sum_to_one_a_layer_and_to_nothing_before_the_first_token():
    model = student()
    meter = LoadMeter(model)
    assert meter.shares() == [[0.0] * CONFIG.num_routed_experts] * 2
    with meter:
        hidden_states(model, tokens())
    assert [sum(row) for row in meter.shares()] == pytest.approx([1.0, 1.0])


@torch.no_grad()
def test_nothing_is_counted_after_leaving_even_by_an_error():
    model = student()
    meter = LoadMeter(model)
    with pytest.raises(KeyError), meter:
        raise KeyError
    hidden_states(model, tokens())
    assert not meter.counts_LE.any()
    assert not any(router._forward_hooks for router in routers(model))


def test_a_student_without_experts_has_an_empty_meter():
    dense = replace(CONFIG, num_dense_layers=CONFIG.num_layers)
    model = build(dense, VOCABULARY, seed=0, device=CPU)
    meter = LoadMeter(model)
    with meter, torch.no_grad():
        hidden_states(model, tokens())
    update_bias(meter, 0.1)
    assert meter.shares() == []


def test_the_bias_moves_by_speed_towards_balance_and_not_at_the_mean():
    model = student()
    meter = LoadMeter(model)
    meter.counts_LE.copy_(torch.tensor([[10.0, 0.0, 4.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
    update_bias(meter, 0.25)
    first, second = (router.e_score_correction_bias.tolist() for router in routers(model))
    assert first == [-0.25, 0.25, 0.0, 0.25]
    assert second == [0.0, 0.0, 0.0, 0.0]
    update_bias(meter, 0.25)
    assert routers(model)[0].e_score_correction_bias.tolist() == [-0.5, 0.5, 0.0, 0.5]


def test_the_bias_is_a_saved_buffer_and_no_parameter():
    model = student()
    parameters = {id(p) for p in model.parameters()}
    for router in routers(model):
        assert id(router.e_score_correction_bias) not in parameters
        assert not router.e_score_correction_bias.requires_grad
    assert sum(name.endswith("e_score_correction_bias") for name in model.state_dict()) == 2


@torch.no_grad()
def test_the_bias_changes_who_is_chosen_and_not_how_much_they_count():
    model = student()
    router = routers(model)[0]
    states = torch.randn(50, CONFIG.hidden_size, generator=torch.Generator().manual_seed(1))
    router.e_score_correction_bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
    logits, weights, chosen = router(states)
    assert {frozenset(row) for row in chosen.tolist()} == {frozenset({0, 1})}
    scores = logits.sigmoid().gather(1, chosen)
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True))


@torch.no_grad()
def load_after(steps: int, speed: float) -> float:
    """Return how uneven the last ten of `steps` batches are, the bias moving at `speed`."""
    router = routers(student())[0]
    generator = torch.Generator().manual_seed(0)
    # A lean common to all tokens makes some experts popular, as in a router left to itself.
    router.weight.copy_(0.1 * torch.randn(router.weight.shape, generator=generator))
    lean = torch.randn(CONFIG.hidden_size, generator=generator)
    meter = LoadMeter(router)
    uneven = []
    with meter:
        for _ in range(steps):
            meter.reset()
            router(lean + torch.randn(128, CONFIG.hidden_size, generator=generator))
            update_bias(meter, speed)
            uneven.append(unevenness(meter))
    return sum(uneven[-10:]) / 10


def test_sixty_steps_of_the_bias_leave_the_experts_more_even_than_none():
    with_bias, without = load_after(60, speed=0.01), load_after(60, speed=0.0)
    assert with_bias < 1.2
    assert without > with_bias + 0.2
