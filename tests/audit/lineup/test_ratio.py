"""A likelihood ratio is that of known pairs, one vote a family, and no larger than they support."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from audit.lineup.ratio import Ratio, fit

FOR = (1.1, 2.0, 2.4, 3.5, 0.4, 2.2)
AGAINST = (-1.0, 0.3, -0.4, 1.4, 0.1, -2.0, 0.6)


def ratio_of(
    related: tuple[float, ...], unrelated: tuple[float, ...], *, least: int = 5
) -> Ratio | None:
    """Return the ratio of one group's scores, each model a family of its own."""
    score_N1 = np.array([*related, *unrelated])[:, None]
    for_N1 = (np.arange(len(score_N1)) < len(related))[:, None]
    family = tuple(f"f{row}" for row in range(len(score_N1)))
    return fit(score_N1, for_N1, ~for_N1, family, least=least)


def by_hand(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return log10 slope and offset that minimise the weighted, ridged logistic loss."""

    def loss(at: np.ndarray) -> float:
        margin = np.where(y, 1, -1) * (at[0] * x + at[1])
        return float(weight @ np.logaddexp(0, -margin) + at[0] ** 2 / 2)

    found = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x
    return found[0] / math.log(10), found[1] / math.log(10)


def test_the_ratio_is_the_odds_of_a_logistic_regression_with_equal_sides():
    made = ratio_of(FOR, AGAINST)
    total = len(FOR) + len(AGAINST)
    weight = [total / 2 / len(FOR)] * len(FOR) + [total / 2 / len(AGAINST)] * len(AGAINST)
    slope, offset = by_hand(
        np.array([*FOR, *AGAINST]), np.arange(total) < len(FOR), np.array(weight)
    )
    assert (made.slope, made.offset) == pytest.approx((slope, offset), abs=1e-3)
    assert made.of(1.0) == pytest.approx(slope + offset, abs=2e-3)


def test_pairs_of_a_family_with_one_group_share_a_vote_and_with_two_have_two():
    family = ("a", "a", "b", "c", "x", "x", "y", "z")
    score_NK = np.array(
        [
            *([2.0, 1.0], [3.0, 1.5], [1.0, 2.5], [0.2, 1.2]),
            *([0.0, -1.0], [1.2, 0.5], [-0.5, np.nan], [0.3, -2.0]),
        ]
    )
    for_NK = np.array([[True, False]] * 2 + [[True, True]] * 2 + [[False, False]] * 4)
    against_NK = ~for_NK & (np.arange(8) >= 4)[:, None]
    made = fit(score_NK, for_NK, against_NK, family, least=3)
    x = [2.0, 3.0, 1.0, 2.5, 0.2, 1.2, 0.0, -1.0, 1.2, 0.5, -0.5, 0.3, -2.0]
    votes = np.array([0.5, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1, 1])
    related = np.arange(13) < 6
    weight = np.where(related, votes / votes[:6].sum(), votes / votes[6:].sum()) * 6 / 2
    assert (made.slope, made.offset) == pytest.approx(
        by_hand(np.array(x), related, weight), abs=1e-3
    )
    assert (made.low, made.high) == (-math.log10(4), math.log10(4))


def test_another_member_that_scores_as_its_family_does_changes_nothing():
    score_N1 = np.array([*FOR, *AGAINST])[:, None]
    for_N1 = (np.arange(len(score_N1)) < len(FOR))[:, None]
    family = tuple(f"f{row}" for row in range(len(score_N1)))
    made = fit(score_N1, for_N1, ~for_N1, family, least=5)
    for row in (0, len(FOR)):
        more = [*range(len(family)), row, row, row]
        again = fit(
            score_N1[more],
            for_N1[more],
            ~for_N1[more],
            tuple(family[place] for place in more),
            least=5,
        )
        assert (again.low, again.high) == (made.low, made.high)
        assert (again.slope, again.offset) == pytest.approx((made.slope, made.offset), abs=1e-4)


def test_what_is_neither_related_nor_unrelated_or_has_no_score_does_not_count():
    made = ratio_of(FOR, AGAINST)
    score_NK = np.full((len(FOR) + len(AGAINST) + 1, 2), np.nan)
    score_NK[:-1, 0] = (*FOR, *AGAINST)
    score_NK[-1] = 40.0, -40.0
    for_NK, against_NK = np.zeros((2, *score_NK.shape), dtype=bool)
    for_NK[: len(FOR)] = True
    against_NK[len(FOR) : -1] = True
    family = tuple(f"f{row}" for row in range(len(score_NK)))
    assert fit(score_NK, for_NK, against_NK, family, least=5) == made


@pytest.mark.parametrize(("related", "unrelated"), [(5, 5), (5, 30), (12, 6)])
def test_no_score_has_a_ratio_beyond_the_families_on_the_other_side(related, unrelated):
    made = ratio_of((3.0,) * related, (-3.0,) * unrelated)
    assert made.of(1e6) == made.high == math.log10(unrelated + 1)
    assert made.of(-1e6) == made.low == -math.log10(related + 1)
    assert made.low < made.of(0.0) < made.high


@pytest.mark.parametrize(("related", "unrelated"), [(4, 9), (9, 4), (0, 9), (9, 0), (0, 0)])
def test_there_is_no_ratio_of_too_few_families(related, unrelated):
    assert ratio_of((1.0,) * related, (0.0,) * unrelated) is None
    if min(related, unrelated):
        assert ratio_of((1.0,) * related, (0.0,) * unrelated, least=4) is not None


def test_families_are_counted_and_not_their_models():
    score_N1 = np.array([*FOR, *AGAINST])[:, None]
    for_N1 = (np.arange(len(score_N1)) < len(FOR))[:, None]
    family = tuple(f"f{row}" for row in range(len(score_N1)))
    four = ("f0", "f0", "f0", *family[3:])
    assert fit(score_N1, for_N1, ~for_N1, family, least=5) is not None
    assert fit(score_N1, for_N1, ~for_N1, four, least=5) is None
    unknown_N1 = np.where(for_N1 & (np.cumsum(for_N1)[:, None] <= 2), np.nan, score_N1)
    assert fit(unknown_N1, for_N1, ~for_N1, family, least=5) is None


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_a_higher_score_never_speaks_less_for_it(scores):
    made = ratio_of(FOR, AGAINST)
    assert made.slope > 0
    found = [made.of(score) for score in sorted(scores)]
    assert found == sorted(found)
    assert all(made.low <= value <= made.high for value in found)


def test_a_score_in_the_middle_of_equal_sides_says_nothing():
    made = ratio_of((1.0, 2.0, 3.0, 4.0, 5.0), (-1.0, -2.0, -3.0, -4.0, -5.0))
    assert made.of(0.0) == pytest.approx(0.0, abs=1e-4)
    assert made.of(2.0) == pytest.approx(-made.of(-2.0), abs=1e-4)
    assert made.of(0.5) > 0.05


def test_known_pairs_that_speak_against_the_score_give_no_ratio():
    assert ratio_of(AGAINST[:6], FOR) is None
    assert ratio_of((1.0,) * 6, (1.0,) * 6) is None
