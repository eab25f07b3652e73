"""The formulas are the divergences they are named after."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from distill.loss import divergences
from distill.loss.divergences import (
    adaptive_kl,
    chunk_likelihood,
    cross_entropy,
    forward_kl,
    jsd,
    reverse_kl,
    sampled_reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    sorted_l1,
    sparse_forward_kl,
    tvd,
)
from distill.loss.objective import Divergence
from distill.signals import sparsify
from tests.fakes.losses import DIVERGENCES

ROWS, VOCAB = 3, 7
LOGITS = arrays.arrays(
    np.float64, (ROWS, VOCAB), elements=st.floats(-15, 15, allow_subnormal=False, width=64)
)


def log_probabilities(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits).log_softmax(-1)


def seeded(seed: int, rows: int = 8, vocab: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(LOGITS, LOGITS)
def test_kl_is_never_negative(teacher, student):
    logp, logq = log_probabilities(teacher), log_probabilities(student)
    assert (forward_kl(logp, logq) >= -1e-12).all()
    assert (reverse_kl(logp, logq) >= -1e-12).all()


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(-20, 20))
def test_kl_is_zero_when_the_student_equals_the_teacher_up_to_a_constant(teacher, shift):
    logp, logq = log_probabilities(teacher), log_probabilities(teacher + shift)
    assert (forward_kl(logp, logq).abs() < 1e-12).all()
    assert (reverse_kl(logp, logq).abs() < 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(LOGITS, LOGITS)
def test_kl_is_positive_when_the_distributions_differ(teacher, student):
    logp, logq = log_probabilities(teacher), log_probabilities(student)
    total_variation = (logp.exp() - logq.exp()).abs().sum(-1) / 2
    # Pinsker's inequality, with room for the rounding of the sums.
    assert (forward_kl(logp, logq) >= 2 * total_variation**2 - 1e-12).all()
    assert (reverse_kl(logp, logq) >= 2 * total_variation**2 - 1e-12).all()


def test_both_directions_are_those_of_torch_distributions():
    p, q = Categorical(logits=seeded(0)), Categorical(logits=seeded(1))
    forward = forward_kl(p.logits, q.logits)
    reverse = reverse_kl(p.logits, q.logits)
    torch.testing.assert_close(forward, kl_divergence(p, q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reverse, kl_divergence(q, p), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(forward, reverse)
    assert forward.dtype == torch.float64


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    logq = seeded(1).log_softmax(-1)
    labels = torch.arange(8) * 5
    expected = torch.stack([-logq[row, label] for row, label in enumerate(labels)])
    assert torch.equal(cross_entropy(labels, logq), expected)


def test_cross_entropy_under_the_teacher_is_kl_plus_entropy():
    p, logq = Categorical(logits=seeded(0)), seeded(1).log_softmax(-1)
    expected = torch.stack(
        [cross_entropy(torch.full((8,), token), logq) for token in range(40)], dim=1
    )
    under_teacher = (p.probs * expected).sum(-1)
    torch.testing.assert_close(under_teacher, forward_kl(p.logits, logq) + p.entropy())


def test_a_sparse_kl_that_keeps_everything_is_the_exact_kl():
    teacher, logq = seeded(0), seeded(1).log_softmax(-1)
    whole = sparsify(teacher, head=40, tail=0, generator=torch.Generator())
    exact = forward_kl(teacher.log_softmax(-1), logq)
    torch.testing.assert_close(sparse_forward_kl(whole, logq), exact, rtol=1e-5, atol=1e-5)


def test_a_sparse_kl_has_the_exact_one_as_its_mean():
    draws = 20_000
    teacher, logq = seeded(0, rows=1), seeded(1, rows=1).log_softmax(-1)
    signal = sparsify(
        teacher.expand(draws, -1), head=5, tail=3, generator=torch.Generator().manual_seed(0)
    )
    found = sparse_forward_kl(signal, logq.expand(draws, -1))
    exact = float(forward_kl(teacher.log_softmax(-1), logq))
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / draws**0.5
    assert found.dtype == torch.float64


@settings(max_examples=60, deadline=None)
@given(LOGITS, LOGITS, st.floats(0.05, 0.95))
def test_every_divergence_is_at_least_zero_and_zero_for_the_same(teacher, student, mix):
    logp, logq = log_probabilities(teacher), log_probabilities(student)
    for kind, usual in [(term.kind, term.mix) for term in DIVERGENCES]:
        term = Divergence(kind=kind, mix=None if usual is None else mix)
        assert (divergences.divergence(term, logp, logq) >= -1e-12).all()
        assert (divergences.divergence(term, logp, logp).abs() < 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(LOGITS, LOGITS, st.floats(0.05, 0.95))
def test_the_mixed_ones_are_the_plain_one_against_the_mixture(teacher, student, mix):
    p, q = log_probabilities(teacher), log_probabilities(student)
    m = (mix * p.exp() + (1 - mix) * q.exp()).log()
    expected = mix * forward_kl(p, m) + (1 - mix) * forward_kl(q, m)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(jsd(p, q, mix), expected, **close)
    torch.testing.assert_close(jsd(p, q, mix), jsd(q, p, 1 - mix), **close)
    torch.testing.assert_close(skew_forward_kl(p, q, mix), forward_kl(p, m), **close)
    torch.testing.assert_close(skew_reverse_kl(q, p, mix), forward_kl(p, m), **close)


def test_the_jensen_shannon_divergence_is_at_most_log_two():
    apart = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], dtype=torch.float64).log_softmax(-1)
    found = jsd(apart[:1], apart[1:], 0.5)
    torch.testing.assert_close(found, torch.tensor([2.0], dtype=torch.float64).log())


def test_skewing_bounds_what_the_student_misses():
    apart = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], dtype=torch.float64).log_softmax(-1)
    for skewed in (skew_forward_kl, skew_reverse_kl):
        found = skewed(apart[:1], apart[1:], 0.1)
        torch.testing.assert_close(found, -torch.tensor([0.1], dtype=torch.float64).log())


def test_total_variation_is_half_the_sum_of_differences():
    p, q = (torch.tensor([x], dtype=torch.float64) for x in ([0.5, 0.3, 0.2], [0.1, 0.3, 0.6]))
    torch.testing.assert_close(tvd(p.log(), q.log()), torch.tensor([0.4], dtype=torch.float64))


def test_the_adaptive_kl_weighs_by_where_the_difference_lies():
    # The first two tokens are the fewest likeliest that hold half of p.
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.1, 0.2, 0.2]], dtype=torch.float64)
    head = (0.1 + 0.2) / (0.1 + 0.2 + 0.0 + 0.1)
    forward, reverse = forward_kl(p.log(), q.log()), reverse_kl(p.log(), q.log())
    expected = head * forward + (1 - head) * reverse
    torch.testing.assert_close(adaptive_kl(p.log(), q.log()), expected)
    assert abs(float(forward - reverse)) > 0.01


def test_the_adaptive_weights_are_held_fixed():
    logp, logits = seeded(0).log_softmax(-1), seeded(1).requires_grad_()
    logq = logits.log_softmax(-1)
    (found,) = torch.autograd.grad(adaptive_kl(logp, logq).sum(), logits, retain_graph=True)
    pure = [forward_kl(logp, logq), reverse_kl(logp, logq)]
    forward, reverse = (torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in pure)
    share = (adaptive_kl(logp, logq) - pure[1]) / (pure[0] - pure[1])
    expected = share[:, None] * forward + (1 - share[:, None]) * reverse
    torch.testing.assert_close(found, expected)


def test_squared_terms_are_larger_by_the_square_of_their_temperature():
    logp, logq = seeded(0).log_softmax(-1), seeded(1).log_softmax(-1)
    for squared, factor in ((False, 1), (True, 9)):
        term = Divergence(kind="tvd", temperature=3.0, squared=squared)
        found = divergences.divergence(term, logp, logq)
        torch.testing.assert_close(found, factor * tvd(logp, logq))


def test_sorted_probabilities_do_not_care_which_token_is_which():
    p, q = seeded(0).softmax(-1), seeded(1).softmax(-1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sorted_l1(p, q), sorted_l1(p[:, order], q))
    assert not sorted_l1(p, p[:, order]).any()


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_vocabulary_is_filled_up_with_nothing(turned):
    few, many = (torch.tensor([x], dtype=torch.float64) for x in ([0.4, 0.6], [0.2, 0.5, 0.3]))
    found = sorted_l1(many, few) if turned else sorted_l1(few, many)
    torch.testing.assert_close(found, torch.tensor([0.1 + 0.1 + 0.2], dtype=torch.float64))


def test_the_sampled_divergence_is_a_gap_and_its_gradient_a_policy_gradient():
    logp = torch.tensor([-1.0, -2.0, torch.nan], dtype=torch.float64)
    logq = torch.tensor([-3.0, -1.5, -0.5], dtype=torch.float64, requires_grad=True)
    found = sampled_reverse_kl(logp, logq)
    gap = torch.tensor([-2.0, 0.5, 0.0], dtype=torch.float64)
    assert torch.equal(found.detach(), gap)
    (grad,) = torch.autograd.grad(found.sum(), logq)
    assert torch.equal(grad, gap)


def test_chunks_are_compared_as_coins():
    p, q = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    coins = [torch.stack([x, 1 - x], dim=-1).log() for x in (p, q)]
    torch.testing.assert_close(chunk_likelihood(p.log(), q.log(), 1.0), forward_kl(*coins))
    cooled = chunk_likelihood(7 * p.log(), 7 * q.log(), 7.0)
    torch.testing.assert_close(cooled, forward_kl(*coins))


def test_a_certain_chunk_is_next_to_certain():
    certain = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = chunk_likelihood(torch.tensor([-1.0], dtype=torch.float64), certain, 1.0)
    assert found.isfinite()
    assert chunk_likelihood(certain, certain, 1.0) == 0
    (grad,) = torch.autograd.grad(found.sum(), certain)
    assert grad.isfinite()
