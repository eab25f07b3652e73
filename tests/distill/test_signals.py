"""Head and sampled tail estimate the teacher's distribution without bias."""

import pytest
import torch

from distill.signals import Sparse, sample, sparsify

VOCAB = 50
HEAD, TAIL = 6, 4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(rows, VOCAB, generator=generator(seed))


def cross_entropies(draws: int, *, renormalised: bool) -> tuple[torch.Tensor, float]:
    """Return the sparse cross-entropy of `draws` draws, and the exact one."""
    teacher = logits()
    logq = logits(seed=1).log_softmax(-1)
    exact = float(-(teacher.softmax(-1) * logq).sum())
    signal = sparsify(
        teacher.expand(draws, -1),
        head=HEAD,
        tail=0 if renormalised else TAIL,
        generator=generator(2),
    )
    ids, weights = signal.targets()
    return -(weights * logq.expand(draws, -1).gather(1, ids)).sum(-1), exact


def standard_errors_off(found: torch.Tensor, exact: float) -> float:
    """Return how many standard errors the mean of `found` is from `exact`."""
    error = float(found.std()) / len(found) ** 0.5
    return abs(float(found.mean()) - exact) / max(error, 1e-6)


def test_the_mean_over_many_draws_is_the_exact_cross_entropy():
    found, exact = cross_entropies(20_000, renormalised=False)
    assert standard_errors_off(found, exact) < 4
    assert float(found.std()) > 0


def test_a_renormalised_top_k_is_biased_and_the_same_test_sees_it():
    found, exact = cross_entropies(20_000, renormalised=True)
    assert standard_errors_off(found, exact) > 4
    assert abs(float(found.mean()) - exact) > 0.05


def test_the_expected_weight_of_every_token_is_its_probability():
    draws = 40_000
    teacher = logits()
    signal = sparsify(teacher.expand(draws, -1), head=HEAD, tail=TAIL, generator=generator(3))
    ids, weights = signal.targets()
    found = torch.zeros(VOCAB).scatter_add_(0, ids.flatten(), weights.flatten()) / draws
    p = teacher.softmax(-1)[0]
    mass = float(signal.tail_mass_N[0])
    # A draw adds mass / TAIL with probability p / mass, so its variance is at most p mass / TAIL.
    error = (p * mass / TAIL / draws).sqrt().clamp_min(1e-7)
    assert ((found - p).abs() < 5 * error + 1e-6).all()


def test_the_head_is_the_likeliest_tokens_at_their_full_probabilities():
    teacher = logits(rows=20)
    signal = sparsify(teacher, head=HEAD, tail=TAIL, generator=generator(0))
    p = teacher.softmax(-1)
    expected = p.sort(descending=True)
    torch.testing.assert_close(signal.head_p_NH, expected.values[:, :HEAD])
    assert torch.equal(signal.head_ids_NH, expected.indices[:, :HEAD])


def test_the_tail_is_drawn_outside_the_head():
    signal = sparsify(logits(rows=500), head=HEAD, tail=TAIL, generator=generator(0))
    inside = signal.tail_ids_NR[:, :, None] == signal.head_ids_NH[:, None, :]
    assert not inside.any()
    assert len(signal.tail_ids_NR.unique()) > VOCAB / 2


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_the_smallest_and_largest_uniform_number_draw_outside_the_head_too(monkeypatch, uniform):
    falling = torch.linspace(3, -3, VOCAB)[None]  # the head is at the front
    monkeypatch.setattr(
        torch, "rand", lambda rows, draws, generator: torch.full((rows, draws), uniform)
    )
    drawn = sparsify(falling, head=HEAD, tail=TAIL, generator=generator(0)).tail_ids_NR
    assert set(drawn.flatten().tolist()) <= set(range(HEAD, VOCAB))


def test_mass_and_entropy_are_those_of_the_full_distribution():
    teacher = logits(rows=20)
    signal = sparsify(teacher, head=HEAD, tail=TAIL, generator=generator(0))
    expected = torch.distributions.Categorical(logits=teacher.double())
    mass = signal.head_p_NH.sum(-1) + signal.tail_mass_N
    torch.testing.assert_close(mass, torch.ones(20))
    torch.testing.assert_close(signal.entropy_N.double(), expected.entropy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tail", [0, 1, TAIL])
def test_weights_of_a_row_sum_to_one(tail):
    ids, weights = sparsify(logits(rows=20), head=HEAD, tail=tail, generator=generator(0)).targets()
    assert ids.shape == weights.shape == (20, HEAD + tail)
    assert ids.dtype == torch.int64
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))


def equal(a: Sparse, b: Sparse) -> bool:
    return all(
        torch.equal(left, right)
        for left, right in [
            (a.head_ids_NH, b.head_ids_NH),
            (a.head_p_NH, b.head_p_NH),
            (a.tail_ids_NR, b.tail_ids_NR),
            (a.tail_mass_N, b.tail_mass_N),
            (a.entropy_N, b.entropy_N),
        ]
    )


def test_the_same_generator_draws_the_same_tail_and_another_draws_another():
    first, again, other = (
        sparsify(logits(rows=20), head=HEAD, tail=TAIL, generator=generator(seed))
        for seed in (7, 7, 8)
    )
    assert equal(first, again)
    assert not torch.equal(first.tail_ids_NR, other.tail_ids_NR)
    assert torch.equal(first.head_ids_NH, other.head_ids_NH)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    first = sparsify(logits(rows=4), head=HEAD, tail=TAIL, generator=generator(7))
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    again = sparsify(logits(rows=4), head=HEAD, tail=TAIL, generator=generator(7))
    assert equal(first, again)
    assert torch.equal(torch.rand(1), expected)


def test_a_certain_teacher_leaves_a_tail_without_weight():
    certain = torch.full((3, VOCAB), -1e4)
    certain[:, 0] = 0.0
    signal = sparsify(certain, head=HEAD, tail=TAIL, generator=generator(0))
    ids, weights = signal.targets()
    assert ids.max() < VOCAB
    assert weights[:, 0].tolist() == [1.0] * 3
    assert not weights[:, 1:].any()
    assert signal.entropy_N.tolist() == [0.0] * 3


def test_a_head_as_wide_as_the_vocabulary_is_the_whole_distribution():
    teacher = logits(rows=3)
    signal = sparsify(teacher, head=VOCAB, tail=TAIL, generator=generator(0))
    ids, weights = signal.targets()
    found = torch.zeros(3, VOCAB).scatter_add_(1, ids, weights)
    torch.testing.assert_close(found, teacher.softmax(-1))


def test_low_precision_logits_are_widened_before_the_softmax():
    signal = sparsify(logits(rows=3).bfloat16(), head=HEAD, tail=TAIL, generator=generator(0))
    assert signal.head_p_NH.dtype == signal.entropy_N.dtype == torch.float32


def weights_of(signal: Sparse) -> torch.Tensor:
    """Return the head of a sample as `[N, V]`."""
    blank = torch.zeros(len(signal.head_ids_NH), VOCAB)
    return blank.scatter_add_(1, signal.head_ids_NH, signal.head_p_NH)


def test_a_sample_s_expected_weight_of_every_token_is_its_probability():
    draws, many = 12, 20_000
    teacher = logits()
    signal = sample(teacher.expand(many, -1), draws=draws, generator=generator(3))
    found = weights_of(signal).mean(0)
    p = teacher.softmax(-1)[0]
    error = (p * (1 - p) / draws / many).sqrt().clamp_min(1e-7)
    assert ((found - p).abs() < 5 * error).all()


def test_a_sample_counts_each_token_once_and_as_often_as_it_was_drawn():
    signal = sample(logits(rows=200), draws=12, generator=generator(0))
    counts = signal.head_p_NH * 12
    torch.testing.assert_close(counts, counts.round())
    assert counts.sum(1).round().tolist() == [12.0] * 200
    for ids, used in zip(signal.head_ids_NH, signal.head_p_NH > 0, strict=True):
        assert len(ids[used].unique()) == int(used.sum())
    assert int((signal.head_p_NH > 0).sum(1).min()) < 12


def test_a_sample_has_no_tail_and_the_entropy_of_the_whole():
    teacher = logits(rows=20)
    signal = sample(teacher, draws=12, generator=generator(0))
    whole = sparsify(teacher, head=HEAD, tail=TAIL, generator=generator(0))
    assert signal.tail_ids_NR.shape == (20, 0)
    assert not signal.tail_mass_N.any()
    torch.testing.assert_close(signal.entropy_N, whole.entropy_N)


def test_a_sample_of_a_certain_teacher_is_that_token():
    certain = torch.full((3, VOCAB), -1e4)
    certain[:, 7] = 0.0
    signal = sample(certain, draws=12, generator=generator(0))
    assert weights_of(signal)[:, 7].tolist() == [1.0] * 3


def test_the_logits_that_are_thinned_out_stay_as_they_were():
    teacher = logits(rows=3)
    before = teacher.clone()
    sparsify(teacher, head=HEAD, tail=TAIL, generator=generator(0))
    sample(teacher, draws=12, generator=generator(0))
    assert torch.equal(teacher, before)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_the_smallest_and_largest_uniform_number_draw_a_token_there_is(monkeypatch, uniform):
    some = torch.full((1, VOCAB), -1e4)
    some[:, 5:9] = torch.tensor([1.0, 2.0, 3.0, 1.0])
    monkeypatch.setattr(
        torch, "rand", lambda rows, draws, generator: torch.full((rows, draws), uniform)
    )
    (drawn,) = weights_of(sample(some, draws=12, generator=generator(0)))
    found = set(drawn.nonzero().flatten().tolist())
    assert found <= {5, 6, 7, 8}
    assert (5 if uniform == 0.0 else 8) in found


@pytest.mark.parametrize("draws", [1, 8, 200])
def test_no_token_is_drawn_one_time_more_or_less_than_it_is_likely(draws):
    teacher = logits(rows=50)
    p = teacher.double().softmax(-1)
    times = draws * weights_of(sample(teacher, draws=draws, generator=generator(3))).double()
    assert ((times - draws * p).abs() < 1 + 1e-4).all()
    thin = sparsify(teacher, head=HEAD, tail=draws, generator=generator(3))
    times = torch.zeros_like(p).scatter_add_(1, thin.tail_ids_NR, torch.ones(50, draws).double())
    rest = p.scatter(1, thin.head_ids_NH, 0)
    rest = rest / rest.sum(-1, keepdim=True)
    assert ((times - draws * rest).abs() < 1 + 1e-4).all()
