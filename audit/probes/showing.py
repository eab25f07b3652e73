"""Which prompts a report shows: those most for a finding and, as prominently, those most against.

The choice is by rank alone, so that nobody can pick what tells one story.
"""

from collections.abc import Sequence
from typing import Literal

Side = Literal["for", "against"]

_EACH = 2


def both_sides(ascending: Sequence[int]) -> list[tuple[Side, int]]:
    """Return as many prompts of one side as of the other, the most telling of each first.

    Args:
        ascending: prompts, the one that speaks most against the finding first.
    """
    each = min(_EACH, len(ascending) // 2)
    likest: list[tuple[Side, int]] = [("for", int(k)) for k in ascending[::-1][:each]]
    return [*likest, *(("against", int(k)) for k in ascending[:each])]
