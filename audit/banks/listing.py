"""A bank's description as plain text: a table of its models, and what goes for all of them."""

from collections.abc import Iterator, Sequence

from audit.banks.describe import Description
from audit.report.reveal import reveal_line

_HEADER = ("model", "family", "role", "group", "answers", "empty", "repeated", "refused",
           "cut off", "words")  # fmt: skip
_TEXTS = 4  # columns from the left that are texts; numbers stand to the right


def text(described: Description) -> str:
    """Return a description as lines for a terminal or a file."""
    return "\n".join(map(reveal_line, [*_table(_rows(described)), "", *_facts(described)]))


def _rows(described: Description) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [_HEADER]
    for m in described.models:
        counts = (m.answers, m.empty, m.repeated, m.refused, m.cut_off)
        words = "" if m.mean_words is None else f"{m.mean_words:,.0f}"
        rows.append((m.model, m.family, m.role, m.group or "", *map("{:,}".format, counts), words))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < _TEXTS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _facts(described: Description) -> Iterator[str]:
    yield (
        f"{len(described.models):,} models of {described.families:,} families, "
        f"{described.groups:,} groups of teachers; {described.prompts:,} prompts, "
        f"{described.common_prompts:,} of them common to all models"
    )
    for pairs in described.pairs:
        yield f"pairs {pairs.truth} ({pairs.basis or 'no basis given'}): {pairs.pairs:,}"
    for twins in described.twins:
        yield (
            f"the same answers: {twins.model} and {twins.other}, at {twins.same:,} of "
            f"{twins.prompts:,} prompts"
        )
    for note in described.notes:
        yield f"note: {note}"
    yield (
        "repeated, refused and cut off are counts by simple rules and judge no model: "
        "`audit bank describe --help` says which."
    )
    yield f"sha256 {described.sha256}"
