"""A plan in words: every number a reader needs, and nothing where nothing is known."""

import pytest

from audit.planning.listing import advice, costs, table
from audit.planning.power import Point, Share


def point(prompts: int, supported: int) -> Point:
    return Point(
        prompts=prompts,
        related={
            "mixed": Share(supported=0, pairs=4),
            "single": Share(supported=supported, pairs=10),
        },
        unrelated=Share(supported=0, pairs=1200),
    )


def test_a_row_is_a_number_of_prompts_and_columns_are_aligned():
    heads, first, last = table([point(20, 1), point(1000, 9)])
    assert heads.split() == ["prompts", "mixed", "single", "unrelated"]
    assert first.split("  ")[-1].strip() == "0 of 1,200"
    assert last.startswith("  1,000  0 of 4  9 of 10")
    assert len(heads) == len(first) == len(last)


def test_advice_names_the_number_and_how_sure_it_is():
    said = advice([point(20, 1), point(40, 8), point(80, 9)], "single", 0.8)
    assert said == ("a power of 80% (single) needs 40 prompts: 8 of 10, 95 % interval 49% to 94%")


def test_advice_says_what_all_prompts_reach_where_that_is_not_enough():
    said = advice([point(20, 1), point(80, 7)], "single", 0.8)
    assert said.startswith("a power of 80% (single) is not reached with all 80 prompts: 7 of 10")


@pytest.mark.parametrize(("cost", "said"), [(0.0371, "0.037"), (0.0, "0"), (1234.5, "1,234.50")])
def test_costs_are_told_to_two_places(cost, said):
    assert costs(count=30, cost=cost, prompts=360, bought=None) == [f"30 prompts cost about {said}"]


def test_what_cannot_be_asked_or_bought_is_said():
    assert costs(count=480, cost=None, prompts=360, bought=12) == [
        "there are 360 prompts to ask, fewer than that",
        "the budget buys 12 of 360 prompts",
    ]
    assert costs(count=None, cost=None, prompts=360, bought=360) == [
        "the budget buys all 360 prompts"
    ]
    assert costs(count=None, cost=None, prompts=360, bought=None) == []
