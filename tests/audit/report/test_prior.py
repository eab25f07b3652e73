"""Posterior odds are prior odds times the ratio."""

import math

import pytest

from audit.report.prior import PRIORS, updates
from audit.report.render import share, times


def test_a_ratio_of_one_leaves_every_prior_as_it_is():
    assert [one.prior for one in updates(0.0)] == list(PRIORS)
    assert [one.probability for one in updates(0.0)] == pytest.approx(PRIORS)


def test_odds_are_multiplied_by_the_ratio():
    one, _, even, _ = updates(2.0)
    assert one.odds == pytest.approx(100 / 99)
    assert even.odds == pytest.approx(100)
    assert even.probability == pytest.approx(100 / 101)


def test_near_certainty_is_never_rounded_up_to_it():
    assert share(0.9999) == "> 99.9 %"
    assert share(0.00001) == "< 0.1 %"
    assert share(0.25) == "25 %"


def test_a_ratio_is_shown_as_such_however_large():
    assert times(math.log10(34)).endswith(">34</data>")
    assert times(-1.0).endswith(">0.1</data>")
    assert times(400.0) == "10<sup>400</sup>"
