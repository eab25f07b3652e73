"""Few tokens give the gradient of all: by the definitions, and in the mean by the full loss."""

from dataclasses import replace

import pytest
import torch

from distill.loss import tiles
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    SampledReverseKL,
    SortedL1,
)
from distill.signals import Chunks, Dense, Sparse, Text, sparsify
from tests.fakes import losses
from tests.fakes.losses import (
    DIVERGENCES,
    ROWS,
    VOCAB,
    Inputs,
    assert_by_definition,
    drawn,
    fused,
    gradients,
    inputs,
)

FORWARD = DIVERGENCES[0]
F64, F32 = torch.float64, torch.float32


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "CPU_ROWS", 7)
    monkeypatch.setattr(tiles, "CPU_ELEMENTS", 1)
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 3 * VOCAB // torch.get_num_threads())


def unused(signal: Sparse) -> Sparse:
    """Drop the last two entries of every other row, which then name the first token again."""
    p, ids, tail = signal.head_p_NH.clone(), signal.head_ids_NH.clone(), signal.tail_mass_N.clone()
    tail[::2] += p[::2, -2:].sum(1)
    p[::2, -2:] = 0
    ids[::2, -2:] = ids[::2, :1]
    return replace(signal, head_p_NH=p, head_ids_NH=ids, tail_mass_N=tail)


SIGNALS = {
    "head_and_tail": (5, 3),
    "head": (5, 0),
    "everything": (VOCAB, 0),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-5)])
@pytest.mark.parametrize("sizes", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize("term", DIVERGENCES, ids=lambda term: term.kind)
def test_values_and_gradients_are_those_of_the_definitions(term, sizes, dtype, tolerance):
    signal = losses.sparse_teacher(*sizes)
    near = losses.sparse_teacher(*sizes, dtype)
    assert_by_definition(
        (replace(term, weight=0.7),), near, exact=signal, dtype=dtype, tolerance=tolerance
    )


@pytest.mark.parametrize("sizes", [(0, 4), (5, 3), (5, 0)])
def test_unused_entries_are_as_if_they_were_not_there(sizes):
    signal = losses.sparse_teacher(*sizes)
    if sizes[0]:
        signal = unused(signal)
        assert_by_definition((*DIVERGENCES, SortedL1()), signal)
    assert_by_definition((FORWARD, CrossEntropy()), signal)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_all_terms_at_once(softcap):
    terms = losses.weighed((*DIVERGENCES, CrossEntropy(), SortedL1(), replace(FORWARD, weight=2)))
    assert_by_definition(terms, losses.sparse_teacher(5, 3), softcap=softcap)


def test_numeric_differences_confirm_the_gradient():
    terms = losses.weighed(
        [term for term in DIVERGENCES if term.kind != "adaptive_kl"] + [CrossEntropy(), SortedL1()]
    )
    given, signal = inputs(rows=3), unused(losses.sparse_teacher(5, 3, rows=3))

    def total(hidden, weight, bias):
        head = replace(given.head, weight_VT=weight, bias_V=bias)
        return fused(replace(given, hidden_ND=hidden, head=head), signal, terms).total

    assert torch.autograd.gradcheck(total, given.leaves())


def test_the_same_token_in_head_tail_and_label_is_counted_each_time():
    given = replace(inputs(rows=1), kept_M=torch.tensor([0]))
    label = int(given.labels_N[0])
    signal = Sparse(
        torch.tensor([[label, (label + 1) % VOCAB]]),
        torch.tensor([[0.5, 0.2]], dtype=F64),
        torch.tensor([[(label + 2) % VOCAB] * 2 + [label]]),
        torch.tensor([0.3], dtype=F64),
        torch.tensor([1.0], dtype=F64),
    )
    terms = losses.weighed((FORWARD, CrossEntropy(), DIVERGENCES[2]))
    found, expected = fused(given, signal, terms), losses.plain(given, signal, terms)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-10, atol=1e-10)
    for left, right in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_a_head_without_a_rest_is_the_whole_distribution():
    dense = 2 * drawn(40, ROWS, VOCAB)
    signal = losses.sparse_teacher(VOCAB, 0)
    assert not signal.tail_mass_N.any()
    for term in DIVERGENCES:
        found, expected = fused(inputs(), signal, (term,)), fused(inputs(), Dense(dense), (term,))
        torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-5)


def test_a_head_alone_bounds_the_forward_kl_from_below():
    dense = Dense(2 * drawn(40, ROWS, VOCAB))
    exact = fused(inputs(), dense, (FORWARD,)).parts[0]
    bounds = [fused(inputs(), losses.sparse_teacher(h, 0), (FORWARD,)).parts[0] for h in (2, 8, 20)]
    assert 0 < bounds[0] < bounds[1] < bounds[2] < exact


def test_an_unknown_entropy_adds_the_tails_own_to_the_value_and_nothing_to_the_gradient():
    signal = losses.sparse_teacher(5, 3)
    blind = replace(signal, entropy_N=torch.full_like(signal.entropy_N, torch.nan))
    given = inputs()
    known, unknown = fused(given, signal, (FORWARD,)), fused(given, blind, (FORWARD,))
    p = (2 * drawn(40, ROWS, VOCAB)).softmax(-1)[given.kept_M]
    tail = p.scatter(1, signal.head_ids_NH[given.kept_M], 0.0)
    inside = tail / tail.sum(-1, keepdim=True)
    own = -(tail.sum(-1) * torch.xlogy(inside, inside).sum(-1)).mean()
    torch.testing.assert_close(unknown.total - known.total, own, rtol=1e-5, atol=1e-5)
    both = zip(gradients(known, given), gradients(unknown, given), strict=True)
    assert all(torch.equal(left, right) for left, right in both)


@pytest.mark.parametrize("gap", [10.0, 25.0, 60.0])
def test_a_small_rest_of_q_keeps_its_precision(gap):
    """In float32 one less the head's probability has none left from 1e-7 on."""
    logits = torch.zeros(1, VOCAB)
    logits[0, :2] = gap
    p = torch.tensor([[0.5, 0.3]])
    signal = Sparse(
        torch.tensor([[0, 1]]), p, torch.empty(1, 0, dtype=torch.int64), 1 - p.sum(-1), p[:, 0]
    )
    exact, ours = (
        replace(
            inputs(dtype, rows=1, bias=False),
            hidden_ND=torch.ones(1, 1, dtype=dtype),
            head=replace(inputs().head, weight_VT=logits.t().to(dtype), bias_V=None),
            labels_N=torch.tensor([0]),
            kept_M=torch.tensor([0]),
        )
        for dtype in (F64, F32)
    )
    for term in (FORWARD, Divergence(kind="reverse_kl"), Divergence(kind="jsd", mix=0.5)):
        grads = []
        for given in (exact, ours):
            weight = given.head.weight_VT.requires_grad_()
            (grad,) = torch.autograd.grad(fused(given, signal, (term,)).total, [weight])
            grads.append(grad)
        left, right = grads[1].double(), grads[0]
        torch.testing.assert_close(left[2:], right[2:], rtol=2e-5, atol=0)
        torch.testing.assert_close(left[:2], right[:2], rtol=0, atol=3e-6)


@pytest.mark.parametrize("size", [1e4, 1e-4])
def test_extreme_logits_give_numbers(size):
    terms = losses.weighed((*DIVERGENCES, CrossEntropy(), SortedL1()))
    given = inputs(F32, scale=size)
    for sizes in SIGNALS.values():
        signal = losses.sparse_teacher(*sizes, F32)
        found = fused(given, signal, terms)
        assert found.total.isfinite()
        assert all(grad.isfinite().all() for grad in gradients(found, given))


def test_text_alone_teaches_by_how_likely_the_teacher_finds_it():
    logp = -drawn(8, ROWS).abs()
    logp[3] = torch.nan
    terms = losses.weighed((CrossEntropy(), SampledReverseKL()))
    assert_by_definition(terms, Text(logp))
    given = inputs()
    found = fused(given, Text(logp), (SampledReverseKL(),))
    (grad, *_) = gradients(found, given)
    assert not grad[3].any()  # nobody knows what the teacher thinks of it
    assert grad[4].any()


def test_the_sampled_gradient_is_that_of_reverse_kl_in_the_mean(monkeypatch):
    monkeypatch.setattr(tiles, "CPU_ROWS", 10_000)
    draws = 60_000
    student, teacher = drawn(50, VOCAB), 2 * drawn(51, VOCAB)
    generator = torch.Generator().manual_seed(0)
    label = torch.multinomial(student.softmax(-1), draws, replacement=True, generator=generator)
    logp = teacher.log_softmax(-1)
    given = Inputs(
        torch.ones(draws, 1, dtype=F64),
        replace(inputs().head, weight_VT=student[:, None].requires_grad_(), bias_V=None),
        label,
        torch.arange(draws),
    )
    sampled = fused(given, Text(logp[label]), (SampledReverseKL(),))
    exact = losses.plain(
        replace(given, kept_M=torch.tensor([0])),
        Dense(teacher[None].expand(draws, -1)),
        (Divergence(kind="reverse_kl"),),
    )
    assert abs(float((sampled.total - exact.total).detach())) < 0.03
    (found,) = torch.autograd.grad(sampled.total, [given.head.weight_VT])
    (expected,) = torch.autograd.grad(exact.total, [given.head.weight_VT])
    assert (found - expected).norm() < 0.05 * expected.norm()


def chunks() -> Chunks:
    """Chunks of 1 to 9 positions, the longest wider than a tile; a few positions in none."""
    of = [0, 1, 1, -1, 2, 2, 2, -1, -1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6, 6, 6, -1]
    assert len(of) == ROWS
    return Chunks(torch.tensor(of), -3 * drawn(60, 8).abs())


@pytest.mark.parametrize("temperature", [1.0, 100.0])
@pytest.mark.parametrize("tile", [1, 2, 7, 100])
def test_chunks_are_never_cut_by_a_tile(monkeypatch, tile, temperature):
    monkeypatch.setattr(tiles, "CPU_ROWS", tile)
    terms = (ChunkLikelihood(weight=50.0, temperature=temperature), CrossEntropy())
    assert_by_definition(terms, chunks())


def test_a_chunk_that_lost_a_position_has_no_part():
    given = inputs()  # every fifth row does not count: of chunks 1, 3, 4 and 6 one is lost
    found = fused(given, chunks(), (ChunkLikelihood(weight=100.0),))
    (grad, *_) = gradients(found, given)
    learnt = {row for row in range(ROWS) if grad[row].any()}
    of = chunks().chunk_N
    assert {int(of[row]) for row in learnt} == {1, 4, 5} - {int(c) for c in of[::5]}


def test_certain_chunks_give_numbers():
    given = inputs(F32, scale=1e3)
    signal = Chunks(chunks().chunk_N, torch.zeros(8))
    found = fused(given, signal, (ChunkLikelihood(),))
    assert found.total.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(found, given))


def test_no_whole_chunk_gives_nothing():
    signal = Chunks(torch.full((ROWS,), -1), torch.zeros(0))
    given = inputs()
    found = fused(given, signal, (ChunkLikelihood(),))
    assert found.total == 0
    assert not any(grad.any() for grad in gradients(found, given))


def scatter(signal_of, batches: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the head's gradient in the mean of many draws, and the standard error of that."""
    rows = 250
    logits = 2 * drawn(40, 1, VOCAB).expand(rows, -1)
    weight = drawn(1, VOCAB, 1).requires_grad_()
    found = []
    for seed in range(batches):
        generator = torch.Generator().manual_seed(seed)
        given = Inputs(
            torch.ones(rows, 1, dtype=F64),
            replace(inputs().head, weight_VT=weight, bias_V=None),
            torch.zeros(rows, dtype=torch.int64),
            torch.arange(rows),
        )
        loss = fused(given, signal_of(logits, generator), (FORWARD,))
        found.append(torch.autograd.grad(loss.total, [weight])[0])
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / batches**0.5


def test_the_mean_gradient_of_draws_is_the_full_one_and_that_of_a_renormalised_head_is_not(
    monkeypatch,
):
    monkeypatch.setattr(tiles, "CPU_ROWS", 1000)

    def sampled(head: int, tail: int):
        return lambda logits, rng: sparsify(logits, head=head, tail=tail, generator=rng)

    def top(logits, rng):
        kept = sparsify(logits, head=8, tail=0, generator=rng)
        whole = kept.head_p_NH / kept.head_p_NH.sum(-1, keepdim=True)
        return replace(kept, head_p_NH=whole, tail_mass_N=torch.zeros_like(kept.tail_mass_N))

    exact, _ = scatter(lambda logits, _: Dense(logits), batches=2)
    for head, tail in ((4, 4), (0, 8)):
        mean, error = scatter(sampled(head, tail))
        assert (mean - exact).norm() < 2 * error.norm()
        assert error.norm() < 0.1 * exact.norm()
    biased, _ = scatter(top, batches=2)
    assert (biased - exact).norm() > 10 * error.norm()
