"""Every statistic a verdict rests on, checked by simulation under its own null.

A simulated rate is compared with binomial bounds that a correct test leaves once in a thousand
runs; the seeds are fixed, so a test either always passes or always fails.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from audit.population import (
    beyond_runs,
    bootstrap_interval,
    conformal_p,
    holm,
    log10_likelihood_ratio,
    references_needed,
    sign_flip,
    smallest_effect,
    wilson,
)

TRIALS = 1_000


def at_most(rate: float, trials: int) -> int:
    """Return how many hits a test of level `rate` may have in `trials`; 1 in 1,000 has more."""
    return int(stats.binom.isf(1e-3, trials, rate))


def at_least(rate: float, trials: int) -> int:
    """Return how few hits it may have; 1 in 1,000 has fewer."""
    return int(stats.binom.ppf(1e-3, trials, rate))


def names(count: int, each: int = 1) -> list[str]:
    """Return the clusters of `count * each` prompts, `each` of them to a cluster."""
    return [f"document {i}" for i in range(count) for _ in range(each)]


def brute_force(differences: np.ndarray, clusters: list[str]) -> float:
    """Return the exact p of the sign-flip test, written as its definition."""
    order = sorted(set(clusters))
    observed = math.fsum(differences)
    flips = list(itertools.product((1, -1), repeat=len(order)))
    hits = 0
    for flip in flips:
        sign = dict(zip(order, flip, strict=True))
        total = math.fsum(sign[c] * d for c, d in zip(clusters, differences, strict=True))
        hits += total >= observed - 1e-12
    return hits / len(flips)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_exact_sign_flips_equal_the_definition(count):
    random = np.random.default_rng(count)
    clusters = names(count, each=3)
    differences = random.normal(0.3, 1.0, len(clusters))
    expected = brute_force(differences, clusters)
    assert sign_flip(differences, clusters, seed=0) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_the_prompts_does_not_matter_to_an_exact_test():
    random = np.random.default_rng(3)
    differences, clusters = random.normal(size=12), names(4, each=3)
    mixed = random.permutation(12)
    again = sign_flip(differences[mixed], [clusters[i] for i in mixed], seed=9)
    assert again == sign_flip(differences, clusters, seed=0)


def test_equal_models_have_p_one():
    assert sign_flip(np.zeros(8), names(8), seed=0) == 1.0
    assert sign_flip(np.zeros(40), names(40), seed=0) == 1.0


def test_random_flips_never_give_p_zero_and_agree_with_the_exact_test():
    assert sign_flip(np.ones(40), names(40), seed=0) == 1 / 10_000
    differences = np.random.default_rng(5).normal(0.3, 1.0, 13)
    exact = brute_force(differences, names(13))
    error = 4 * math.sqrt(exact * (1 - exact) / 9_999)
    assert sign_flip(differences, names(13), seed=0) == pytest.approx(exact, abs=error)


@pytest.mark.parametrize(("count", "kind"), [(10, "exact"), (13, "random")])
def test_sign_flips_keep_their_level_under_heavy_tails(count, kind):
    random = np.random.default_rng(11)
    p = np.array(
        [sign_flip(random.laplace(size=count), names(count), seed=i) for i in range(TRIALS)]
    )
    for alpha in (0.05, 0.01):
        hits = int((p <= alpha).sum())
        # The lower bound matters too: a test that never rejects keeps every level.
        assert at_least(alpha, TRIALS) <= hits <= at_most(alpha, TRIALS), kind


def test_correlated_prompts_break_the_test_by_prompt_and_not_the_one_by_document():
    random = np.random.default_rng(12)
    trials, documents, each = 150, 10, 6
    prompts = [f"prompt {i}" for i in range(documents * each)]
    by_prompt = by_document = 0
    for i in range(trials):
        shared = np.repeat(random.normal(0, 1.0, documents), each)
        differences = shared + random.normal(0, 0.5, documents * each)
        by_prompt += sign_flip(differences, prompts, seed=i) <= 0.05
        by_document += sign_flip(differences, names(documents, each), seed=i) <= 0.05
    assert by_document <= at_most(0.05, trials)
    assert by_prompt > 2 * at_most(0.05, trials)


@pytest.mark.parametrize("controls", [2, 3])
def test_beyond_runs_keeps_its_level_with_few_normal_controls(controls):
    random = np.random.default_rng(controls)
    trials = 4_000
    draws = random.normal(2.0, 0.7, size=(trials, controls + 1))
    p = np.array([beyond_runs(row[0], row[1:].tolist()) for row in draws])
    for alpha in (0.05, 0.01):
        assert at_least(alpha, trials) <= (p <= alpha).sum() <= at_most(alpha, trials)
    # A normal yardstick, which takes the spread of so few for known, would not keep it.
    z = (draws[:, 0] - draws[:, 1:].mean(1)) / (
        draws[:, 1:].std(1, ddof=1) * math.sqrt(1 + 1 / controls)
    )
    assert (stats.norm.sf(z) <= 0.01).sum() > 3 * at_most(0.01, trials)


def test_beyond_runs_says_nothing_without_a_spread():
    assert beyond_runs(5.0, [1.0]) is None
    assert beyond_runs(5.0, []) is None
    assert beyond_runs(5.0, [1.0, 1.0]) is None
    assert beyond_runs(5.0, [0.1, 0.1, 0.1]) is None  # whose standard deviation is 1.7e-17
    assert beyond_runs(5.0, [0.0, 0.0]) is None
    assert beyond_runs(1.0, [1.0, 1.0]) == 1.0


def test_beyond_runs_equals_a_worked_example():
    # Mean 2, s = 1, t = (6 - 2) / sqrt(4 / 3) = 3.4641 on 2 degrees of freedom.
    assert beyond_runs(6.0, [1.0, 2.0, 3.0]) == pytest.approx(0.03709, abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_a_rank_p_value_is_super_uniform_when_models_are_exchangeable(ties):
    random = np.random.default_rng(21)
    trials, references = 4_000, 19
    scores = random.normal(size=(trials, references + 1))
    scores = scores.round(0) if ties else scores
    p = np.array([conformal_p(row[0], row[1:].tolist()) for row in scores])
    for alpha in (0.05, 0.1, 0.5):
        assert (p <= alpha + 1e-12).sum() <= at_most(alpha, trials)
    if not ties:
        assert (p <= 0.05 + 1e-12).sum() >= at_least(0.05, trials)


def test_a_rank_p_value_counts_the_suspect_itself():
    assert conformal_p(3.0, [1.0, 2.0]) == pytest.approx(1 / 3)
    assert conformal_p(1.0, [1.0, 2.0]) == 1.0
    assert conformal_p(1.0, []) == 1.0


def test_references_needed_are_just_enough():
    assert references_needed(0.05) == 19
    assert references_needed(0.01) == 99
    for alpha in (0.5, 0.1, 0.05, 0.03, 0.01, 0.001):
        count = references_needed(alpha)
        assert 1 / (count + 1) <= alpha + 1e-12
        assert 1 / count > alpha


def test_holm_equals_a_worked_example():
    # In order 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(a >= p and a <= 1 for a, p in zip(adjusted, p_values, strict=True))
    ranked = [adjusted[i] for i in sorted(range(len(p_values)), key=lambda i: p_values[i])]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_holm_bounds_the_chance_of_any_false_finding(shared):
    random = np.random.default_rng(31)
    trials, questions, false = 3_000, 6, 4
    noise = random.normal(size=(trials, questions)) * math.sqrt(1 - shared)
    noise += random.normal(size=(trials, 1)) * math.sqrt(shared)
    noise[:, false:] += 4.0  # the other two are true, which is what Holm gains by
    p = stats.norm.sf(noise)
    adjusted = np.array([holm(row.tolist()) for row in p])
    wrong = int((adjusted[:, :false] <= 0.05).any(1).sum())
    assert wrong <= at_most(0.05, trials)
    if not shared:
        assert (p[:, :false] <= 0.05).any(1).sum() > 2 * at_most(0.05, trials)


def test_the_bootstrap_interval_covers_the_mean_about_95_times_in_100():
    random = np.random.default_rng(41)
    trials, documents = 400, 30
    covered = 0
    for i in range(trials):
        sizes = random.integers(1, 6, documents)
        clusters = [f"document {d}" for d, size in enumerate(sizes) for _ in range(size)]
        values = np.repeat(random.normal(0.5, 1.0, documents), sizes)
        values = values + random.normal(0, 0.5, len(values))
        low, high = bootstrap_interval(values, clusters, seed=i, draws=1_000)
        covered += low <= 0.5 <= high
    # A percentile interval over 30 clusters is a little too narrow; 93 in 100 is what it has.
    assert at_least(0.92, trials) <= covered <= at_most(0.96, trials)


def test_the_bootstrap_interval_of_many_documents_is_that_of_the_normal_law():
    values = np.random.default_rng(42).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(values, names(400), seed=0)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_bootstrap_draws_documents_and_not_prompts():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    by_document = bootstrap_interval(values, names(4, each=25), seed=0)
    by_prompt = bootstrap_interval(values, names(100), seed=0)
    assert by_document[1] - by_document[0] > 3 * (by_prompt[1] - by_prompt[0])


def test_the_smallest_effect_is_found_four_times_in_five():
    random = np.random.default_rng(51)
    trials, prompts = 250, 60
    effect = smallest_effect(random.normal(0, 1.3, 20_000), alpha=0.05) * math.sqrt(20_000 / 60)
    found = sum(
        sign_flip(random.normal(effect, 1.3, prompts), names(prompts), seed=i) <= 0.05
        for i in range(trials)
    )
    assert at_least(0.8, trials) <= found <= at_most(0.8, trials)


def test_the_smallest_effect_equals_a_worked_example():
    # (1.6449 + 0.8416) / sqrt(100), one-sided, for values of standard deviation 1.
    values = np.tile([-1.0, 1.0], 50) * math.sqrt(99 / 100)
    assert smallest_effect(values, alpha=0.05) == pytest.approx(0.24865, abs=1e-5)


@settings(deadline=None)
@given(st.floats(1e-12, 1.0), st.integers(1, 500))
def test_the_likelihood_ratio_stays_within_both_bounds(p_value, models):
    ratio = log10_likelihood_ratio(p_value, models)
    assert 0.0 <= ratio <= math.log10(models + 1)
    if p_value < 1 / math.e:
        assert 10**ratio <= 1 / (-math.e * p_value * math.log(p_value)) * (1 + 1e-9)
    else:
        assert ratio == 0.0


def test_the_likelihood_ratio_falls_as_p_grows_and_is_capped_by_the_models():
    ratios = [log10_likelihood_ratio(p, 999) for p in np.linspace(1e-6, 1, 2_000)]
    assert ratios == sorted(ratios, reverse=True)
    assert log10_likelihood_ratio(0.0, 3) == math.log10(4)
    assert log10_likelihood_ratio(0.01, 10**6) == pytest.approx(math.log10(7.988), abs=1e-3)


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (3, 48), (20, 440), (7, 7)])
def test_wilsons_interval_is_scipys(hits, total):
    found = stats.binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson(hits, total) == pytest.approx((found.low, found.high))


def test_nothing_known_is_every_share():
    assert wilson(0, 0) == (0.0, 1.0)
