"""The formulas are the divergences they are named after."""

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from distill.divergences import cross_entropy, forward_kl, reverse_kl, sparse_forward_kl
from distill.signals import sparsify

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
