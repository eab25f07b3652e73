"""How far behind its teacher a student is, and what the interval of that allows to say."""

from collections.abc import Mapping, Sequence
from typing import Any


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparisons of student and teacher with how far behind the student is.

    A row has `name`, `measure`, `lower_is_better`, both sides' `student` and `teacher`, and what
    `intervals` found: `difference`, `low`, `high` (None where one cluster says nothing), `level`,
    `n`, `clusters`. One without a teacher has nothing to compare and is left out.

    `behind`, `low` and `high` are in the measure's own unit, above 0 where the teacher is better;
    `reading` says what the interval allows to say.
    """
    found = []
    for row in rows:
        if row["teacher"] is None:
            continue
        sign = 1 if row["lower_is_better"] else -1
        side = {"behind": sign * row["difference"], "reading": "not told apart"}
        if row["low"] is not None:
            low, high = sorted((sign * row["low"], sign * row["high"]))
            side |= {"low": low, "high": high}
            if low > 0 or high < 0:
                side["reading"] = "behind" if low > 0 else "ahead"
        found.append({**row, **side})
    return found


def alone(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of what no teacher was asked; `low` and `high` are of the student's share."""
    return [row for row in rows if row["teacher"] is None]
