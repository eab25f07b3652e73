"""Choices that one pass made are made again by another, whatever its weights would choose."""

from dataclasses import replace

import pytest
import torch

from student.choices import Choices
from student.documents import Documents
from student.model import Output, Student
from tests.fakes.students import CPU, MLA, V4, distance, documents, stirred, text

LENGTHS = (37, 6, 50)
TOKENS = sum(LENGTHS)
V4_DEEP, MLA_DEEP = replace(V4, num_mtp_layers=2), replace(MLA, num_mtp_layers=2)
BOTH = pytest.mark.parametrize("config", [V4_DEEP, MLA_DEEP], ids=["v4", "mla"])


def run(student: Student, replay: Choices | None = None, **wanted) -> Output:
    return student(text(TOKENS), documents(*LENGTHS), replay=replay, ahead=True, **wanted)


def equal(first: Choices, second: Choices) -> bool:
    both = zip((*first.experts, *first.entries), (*second.experts, *second.entries), strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in both)


def allowed(entry_NK: torch.Tensor, where: Documents) -> bool:
    """Tell whether every place is an entry of the token's own past, or -1."""
    entries = where.entries(V4.csa_compression)
    first_N1, end_N1 = entries.first_N[:, None], entries.end_N[:, None]
    return bool(((entry_NK == -1) | ((entry_NK >= first_N1) & (entry_NK < end_N1))).all())


@BOTH
@torch.no_grad()
def test_choices_replayed_on_the_same_weights_give_equal_outputs(config):
    student = stirred(config)
    first = run(student)
    again = run(student, first.choices)
    assert torch.equal(again.hidden_ND, first.hidden_ND)
    assert all(
        torch.equal(a.hidden_PD, b.hidden_PD) for a, b in zip(again.ahead, first.ahead, strict=True)
    )
    assert equal(again.choices, first.choices)


@torch.no_grad()
def test_a_pass_records_a_place_a_layer_prediction_layers_last():
    made = run(stirred(V4_DEEP)).choices
    assert [chosen is None for chosen in made.experts] == [False] * 6
    assert [chosen is None for chosen in made.entries] == [True, False, True, False, True, True]
    left = [TOKENS] * 4 + [TOKENS - 3, TOKENS - 6]
    assert [tuple(chosen.shape) for chosen in made.experts] == [(n, 2) for n in left]
    assert made.entries[1].shape == (TOKENS, V4.index_top_k)
    assert all(allowed(made.entries[layer], documents(*LENGTHS)) for layer in (1, 3))
    made = run(stirred(MLA_DEEP)).choices
    assert [chosen is None for chosen in made.experts] == [True, False, False, False, False]
    assert made.entries == (None,) * 5


@BOTH
@torch.no_grad()
def test_other_weights_follow_the_choices_they_are_given(config):
    old, new = stirred(config, seed=0), stirred(config, seed=1)
    given, free = run(old).choices, run(new)
    assert not equal(free.choices, given)
    followed = run(new, given)
    assert equal(followed.choices, given)
    loads = [load_E.tolist() for load_E in followed.loads if load_E is not None]
    chosen = [expert_NK for expert_NK in given.experts if expert_NK is not None]
    assert loads == [c.flatten().bincount(minlength=6).tolist() for c in chosen]
    assert distance(followed.hidden_ND, free.hidden_ND) > 1e-3


@torch.no_grad()
def test_a_table_that_changed_is_overruled_by_what_it_said_before():
    student = stirred(V4_DEEP)
    first = run(student)
    table_VK = student.layers[0].ffn.router.table
    table_VK.copy_(table_VK.roll(1, 0))
    assert not equal(run(student).choices, first.choices)
    assert torch.equal(run(student, first.choices).hidden_ND, first.hidden_ND)


@torch.no_grad()
def test_routing_alone_leaves_the_indexer_free():
    old, new = stirred(V4_DEEP, seed=0), stirred(V4_DEEP, seed=1)
    given = run(old).choices.routing_only()
    assert given.entries == (None,) * 6
    made = run(new, given).choices
    assert all(map(torch.equal, made.experts, given.experts))
    assert not torch.equal(made.entries[1], run(old).choices.entries[1])
    free = Choices(experts=(None,) * 6, entries=(None,) * 6)
    assert equal(run(new, free).choices, run(new).choices)


@BOTH
@torch.no_grad()
def test_layers_can_be_replayed_one_by_one(config):
    old, new = stirred(config, seed=0), stirred(config, seed=1)
    given, free = run(old).choices, run(new).choices
    layers = len(given.experts)
    for layer in range(1, layers):
        experts = tuple(given.experts[i] if i == layer else None for i in range(layers))
        made = run(new, Choices(experts=experts, entries=(None,) * layers)).choices
        before = zip(made.experts[:layer], free.experts[:layer], strict=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in before)
        assert torch.equal(made.experts[layer], given.experts[layer])


@BOTH
@torch.no_grad()
def test_choices_without_prediction_layers_leave_those_free(config):
    # What is decoded from a cache has none, and is then trained on with prediction layers.
    old, new = stirred(config, seed=0), stirred(config, seed=1)
    given = old(text(TOKENS), documents(*LENGTHS)).choices
    assert len(given.experts) == config.num_layers
    made = run(new, given)
    assert len(made.ahead) == 2
    both = zip(made.choices.experts[: config.num_layers], given.experts, strict=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in both)


@torch.no_grad()
def test_dense_attention_takes_no_choice():
    student = stirred(V4_DEEP)
    sparse, dense = run(student), run(student, dense=True)
    given = run(student, sparse.choices, dense=True)
    assert given.choices.entries == (None,) * 6
    assert distance(dense.hidden_ND, sparse.hidden_ND) > 1e-4
    assert distance(given.hidden_ND, dense.hidden_ND) > 0  # the experts are still replayed
    assert torch.equal(run(student, dense.choices, dense=True).hidden_ND, dense.hidden_ND)


def test_gradients_pass_through_the_weights_of_replayed_experts():
    student = stirred(V4_DEEP)
    given = run(stirred(V4_DEEP, seed=1)).choices
    run(student, given).hidden_ND.square().sum().backward()
    routers = [p for n, p in student.named_parameters() if n.endswith("router.weight")][:4]
    assert all(bool(p.grad.any()) for p in routers)


def test_choices_move_between_devices_with_their_gaps():
    experts, entries = (None, torch.tensor([[1, 0]])), (torch.tensor([[-1]]), None)
    moved = Choices(experts=experts, entries=entries).to(torch.device("meta"))
    assert moved.experts[0] is None and moved.entries[1] is None
    assert (moved.experts[1].device.type, moved.entries[0].device.type) == ("meta", "meta")
    back = Choices(experts=experts, entries=entries).to(CPU)
    assert back.experts[1] is experts[1]
