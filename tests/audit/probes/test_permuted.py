"""Likeness to a group survives no dealing of its answers to others; likeness to anybody does."""

import numpy as np
import pytest

from audit.evidence import Verdict
from audit.population import wilson
from audit.probes import permuted

GROUPS = ((0, 1), (2,), (3, 4, 5))


def anybody(seed: int, prompts: int = 40) -> np.ndarray:
    """Return a likeness to every teacher's answers that is chance, over what prompts share."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, prompts, 6)) + rng.normal(size=(3, prompts, 1))


def test_under_its_null_small_values_are_as_rare_as_they_should_be(monkeypatch):
    monkeypatch.setattr(permuted, "DRAWS", 99)
    p_SK = np.array([permuted.p_values(anybody(n), GROUPS, seed=n) for n in range(300)])
    for alpha in (0.05, 0.2, 0.5):
        for p_S in p_SK.T:
            low, high = wilson(int((p_S <= alpha).sum()), len(p_S), z=3.5)
            assert low <= alpha <= high


def test_a_likeness_to_one_group_alone_is_not_reached():
    values = anybody(1)
    values[:, :, 2] += 1.0
    p_K = permuted.p_values(values, GROUPS, seed=0)
    assert p_K[1] == 1 / (1 + permuted.DRAWS)
    assert min(p_K[0], p_K[2]) > 0.5


def test_views_count_alike_whatever_their_spread():
    values = anybody(2)
    values[0, :, 3] += 2.0
    loud = values * np.array([1.0, 50.0, 0.01])[:, None, None]
    np.testing.assert_array_equal(
        permuted.p_values(values, GROUPS, seed=3), permuted.p_values(loud, GROUPS, seed=3)
    )


def test_the_same_seed_gives_the_same_and_another_another():
    values = anybody(4)
    first = permuted.p_values(values, GROUPS, seed=5)
    np.testing.assert_array_equal(first, permuted.p_values(values, GROUPS, seed=5))
    assert not np.array_equal(first, permuted.p_values(values, GROUPS, seed=6))


def test_answers_that_are_not_there_never_change_hands():
    """A teacher that answers one prompt in eight is judged by those alone."""
    values = anybody(6, prompts=80)
    values[:, :, 2] += 3.0
    values[:, np.arange(80) % 8 > 0, 2] = np.nan
    values[:, :5] = np.nan
    p_K = permuted.p_values(values, GROUPS, seed=0)
    assert p_K[1] == 1 / (1 + permuted.DRAWS)


def test_a_group_without_any_answer_passes_nothing():
    values = anybody(7)
    values[:, :, 2] = np.nan
    p_K = permuted.p_values(values, GROUPS, seed=0)
    assert p_K[1] == 1.0
    assert np.isfinite(p_K).all()


def test_no_answers_at_all_pass_nothing():
    nothing = np.full((3, 10, 6), np.nan)
    np.testing.assert_array_equal(permuted.p_values(nothing, GROUPS, seed=0), np.ones(3))


@pytest.mark.parametrize(("p_value", "said"), [(0.001, "0.1% of dealings"), (1.0, "100.0% of")])
def test_the_report_says_what_it_is_and_that_it_decides_nothing(p_value, said):
    found = permuted.result(p_value, 40)
    assert said in found.reason
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.p_value, found.score, found.n_prompts) == (p_value, None, 40)
