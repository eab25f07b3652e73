"""A report shows as many prompts against a finding as for it."""

import pytest

from audit.probes.showing import both_sides


def test_the_two_most_telling_prompts_of_each_side_are_shown():
    found = both_sides([5, 3, 8, 1, 9, 2])
    assert found == [("for", 2), ("for", 9), ("against", 5), ("against", 3)]


@pytest.mark.parametrize("count", range(5))
def test_no_prompt_is_on_both_sides_and_both_sides_have_as_many(count):
    found = both_sides(list(range(count)))
    assert len({place for _, place in found}) == len(found)
    assert [side for side, _ in found].count("for") * 2 == len(found)
