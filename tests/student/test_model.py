"""A student sees no later token and no other document, and learns everywhere."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from student.config import V4Config
from student.documents import Documents
from student.errors import ShapeError
from student.model import Output, Student
from student.moe import Mixture
from tests.fakes.students import (
    CPU,
    MLA,
    V4,
    VOCABULARY,
    distance,
    documents,
    in_bfloat16,
    stirred,
    text,
)

LENGTHS = (37, 6, 50)
TOKENS = sum(LENGTHS)
BOTH = pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])


def loss_of(student: Student, output: Output) -> torch.Tensor:
    """Return a scalar that everything an output learns from has a part in."""
    read = [output.hidden_ND, *(ahead.hidden_PD for ahead in output.ahead)]
    spoken = [student.logits(hidden).log_softmax(-1).square().mean() for hidden in read]
    return sum(spoken) + output.balance_loss + output.index_loss


# What a forward pass sees


@BOTH
@torch.no_grad()
def test_a_later_token_changes_nothing_before_it(config):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    before = student(token_N, where, ahead=True)
    for place in (1, 8, 20, 36, 37, 43, 60, TOKENS - 1):
        changed_N = token_N.clone()
        changed_N[place] = (token_N[place] + 1) % VOCABULARY.size
        # The same experts, so that their products have the same shapes and round alike.
        after = student(changed_N, where, replay=before.choices.routing_only())
        assert torch.equal(after.hidden_ND[:place], before.hidden_ND[:place])
        assert not torch.equal(after.hidden_ND[place], before.hidden_ND[place])


@BOTH
@torch.no_grad()
def test_nor_does_it_change_what_is_chosen_before_it(config):
    student, token_N, where = stirred(config).double(), text(TOKENS), documents(*LENGTHS)
    before = student(token_N, where)
    for place in (1, 20, 43, TOKENS - 1):
        changed_N = token_N.clone()
        changed_N[place:] = text(TOKENS - place, seed=place)
        after = student(changed_N, where)
        assert distance(after.hidden_ND[:place], before.hidden_ND[:place]) < 1e-14
        both = zip(
            (*before.choices.experts, *before.choices.entries),
            (*after.choices.experts, *after.choices.entries),
            strict=True,
        )
        for first, second in both:
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first[:place], second[:place])


@BOTH
def test_no_gradient_reaches_a_later_token_or_another_document(config):
    student, where = stirred(config), documents(*LENGTHS)
    token_N = torch.arange(TOKENS)  # each its own row of the embedding
    output = student(token_N, where)
    for place, first in ((36, 0), (40, 37), (TOKENS - 2, 43)):
        (grad_VD,) = torch.autograd.grad(
            output.hidden_ND[place].sum(), student.embed.weight, retain_graph=True
        )
        reached = grad_VD.any(-1).nonzero().flatten().tolist()
        assert set(reached) <= set(range(first, place + 1))
        assert place in reached and len(reached) > 3


@BOTH
def test_tokens_and_documents_must_fit(config):
    student = stirred(config)
    with pytest.raises(ShapeError, match=r"token_N has shape \(5,\); documents of 93 tokens"):
        student(text(5), documents(*LENGTHS))
    with pytest.raises(ShapeError, match=r"token_N has shape \(1, 93\); .*one dimension"):
        student(text(TOKENS)[None], documents(*LENGTHS))


@BOTH
@torch.no_grad()
def test_loads_count_what_was_chosen_layer_by_layer(config):
    student = stirred(config)
    output = student(text(TOKENS), documents(*LENGTHS), ahead=True)
    blocks = list(student.blocks())
    assert len(output.loads) == len(output.choices.experts) == len(blocks)
    for block, load_E, chosen in zip(blocks, output.loads, output.choices.experts, strict=True):
        if not isinstance(block.ffn, Mixture):
            assert load_E is None and chosen is None
            continue
        assert load_E.dtype == torch.float32
        assert load_E.tolist() == chosen.flatten().bincount(minlength=6).tolist()
        assert all(len(set(row)) == 2 for row in chosen.tolist())
    assert output.loads[-1].sum() == 2 * (TOKENS - len(LENGTHS))


@torch.no_grad()
def test_dense_is_sparse_where_the_choice_does_not_bind_and_not_where_it_does():
    token_N, where = text(TOKENS), documents(*LENGTHS)
    roomy = stirred(replace(V4, index_top_k=50 // 4))
    sparse, dense = roomy(token_N, where), roomy(token_N, where, dense=True)
    assert torch.equal(sparse.hidden_ND, dense.hidden_ND)
    assert sparse.choices.entries == (None,) * 4
    tight = stirred(replace(V4, index_top_k=50 // 4 - 1))
    sparse, dense = tight(token_N, where), tight(token_N, where, dense=True)
    assert [entry is None for entry in sparse.choices.entries] == [True, False, True, False]
    assert dense.choices.entries == (None,) * 4
    assert torch.equal(dense.hidden_ND, roomy(token_N, where).hidden_ND)
    # The choice first binds where a twelfth window closes, in the third document.
    changed = (sparse.hidden_ND - dense.hidden_ND).abs().amax(-1) > 1e-5
    assert changed.nonzero().flatten().tolist() == list(range(43 + 47, TOKENS))


# What learns


@BOTH
def test_everything_learns_when_all_losses_are_asked_for(config):
    student, token_N = stirred(replace(config, num_mtp_layers=2)), text(TOKENS)
    output = student(token_N, documents(*LENGTHS), losses=True, ahead=True)
    loss_of(student, output).backward()
    still = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters())


@BOTH
def test_a_fresh_student_learns_everywhere_from_its_first_step(config):
    student, token_N = Student.build(config, VOCABULARY, seed=0, device=CPU), text(TOKENS)
    output = student(token_N, documents(*LENGTHS), losses=True, ahead=True)
    loss_of(student, output).backward()
    still = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@BOTH
def test_without_losses_the_indexers_alone_stand_still(config):
    student, token_N = stirred(config), text(TOKENS)
    output = student(token_N, documents(*LENGTHS), ahead=True)
    assert not output.balance_loss and not output.index_loss
    loss_of(student, output).backward()
    names = {name for name, _ in student.named_parameters()}
    still = {name for name, p in student.named_parameters() if p.grad is None}
    assert still == {name for name in names if ".indexer." in name}
    assert len(still) == (12 if isinstance(config, V4Config) else 0)


def test_the_index_loss_moves_the_indexers_alone():
    student = stirred(V4)
    student(text(TOKENS), documents(*LENGTHS), losses=True).index_loss.backward()
    moved = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {n for n, _ in student.named_parameters() if ".indexer." in n}


@BOTH
def test_the_balance_loss_is_one_a_layer_where_experts_are_even(config):
    student = stirred(config)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith("router.weight"):
                parameter.zero_()
    output = student(text(TOKENS), documents(*LENGTHS), losses=True, ahead=True)
    # Affinities all alike: shares are even, whoever is chosen. Tables have no loss.
    torch.testing.assert_close(output.balance_loss, torch.tensor(4.0 if config is V4 else 3.0))


# What is kept for the backward pass


def kept_bytes(student: Student, token_N: torch.Tensor, where: Documents, **wanted) -> int:
    """Return how many bytes of distinct storage the graph of a pass holds on to."""
    known = {t.untyped_storage().data_ptr() for t in student.parameters()}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = student(token_N, where, **wanted)
    assert output.hidden_ND.requires_grad
    return sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in known)


@BOTH
@pytest.mark.parametrize("replayed", [False, True])
def test_recomputing_changes_neither_losses_nor_gradients(config, replayed):
    token_N, where = text(TOKENS), documents(*LENGTHS)
    config = replace(config, num_mtp_layers=2)
    replay = None
    if replayed:
        with torch.no_grad():
            replay = stirred(config, seed=1)(token_N, where, ahead=True).choices
    found = []
    for recompute in (False, True):
        student = stirred(config)
        output = student(
            token_N, where, replay=replay, losses=True, ahead=True, recompute=recompute
        )
        loss_of(student, output).backward()
        grads = {name: p.grad for name, p in student.named_parameters()}
        found.append((output, grads))
    (first, grads), (second, again) = found
    assert torch.equal(first.hidden_ND, second.hidden_ND)
    assert torch.equal(first.balance_loss, second.balance_loss) and first.balance_loss > 0
    assert torch.equal(first.index_loss, second.index_loss)
    for a, b in zip(first.ahead, second.ahead, strict=True):
        assert torch.equal(a.hidden_PD, b.hidden_PD)
    assert [name for name in grads if not torch.equal(grads[name], again[name])] == []


@BOTH
def test_recomputing_keeps_a_fraction_of_what_is_otherwise_kept(config):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    whole = kept_bytes(student, token_N, where)
    again = kept_bytes(student, token_N, where, recompute=True)
    assert 0 < again < whole / 4


@BOTH
@torch.no_grad()
def test_without_gradients_nothing_is_recomputed_and_nothing_changes(config):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    plain = student(token_N, where).hidden_ND
    assert torch.equal(student(token_N, where, recompute=True).hidden_ND, plain)


@BOTH
@pytest.mark.parametrize("stored", [False, True], ids=["masters", "stored"])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_bfloat16_stays_near_float32_and_learns(config, stored, autocast):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    exact = student(token_N, where, ahead=True)
    if stored:
        in_bfloat16(student)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        rough = student(token_N, where, replay=exact.choices, losses=True, ahead=True)
        loss_of(student, rough).backward()
    assert rough.hidden_ND.dtype == (torch.bfloat16 if stored else torch.float32)
    assert distance(rough.hidden_ND, exact.hidden_ND) < 0.03
    assert distance(rough.ahead[0].hidden_PD, exact.ahead[0].hidden_PD) < 0.05
    assert (rough.balance_loss.dtype, rough.index_loss.dtype) == (torch.float32, torch.float32)
    assert [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []


@BOTH
def test_a_student_cast_to_bfloat16_throughout_runs_and_learns(config):
    student, token_N, where = stirred(config), text(TOKENS), documents(*LENGTHS)
    exact = student(token_N, where, ahead=True)
    student.to(torch.bfloat16)
    rough = student(token_N, where, replay=exact.choices, losses=True, ahead=True)
    loss_of(student, rough).backward()
    # Gates, biases and the norms' weights are rounded here too.
    assert distance(rough.hidden_ND, exact.hidden_ND) < 0.05
    assert [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []
