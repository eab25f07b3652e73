"""The plan in a few lines of plain text, for a terminal."""

from collections.abc import Sequence

from audit.planning.power import Point, Share, needed


def table(points: Sequence[Point]) -> list[str]:
    """Return a row a number of prompts: known pairs that would be SUPPORTED, by relation."""
    relations = list(points[0].related)
    heads = ["prompts", *relations, "unrelated"]
    rows = [
        [
            f"{point.prompts:,}",
            *(_of(point.related[relation]) for relation in relations),
            _of(point.unrelated),
        ]
        for point in points
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (heads, *rows)
    ]


def _of(share: Share) -> str:
    return f"{share.supported} of {share.pairs:,}"


def advice(points: Sequence[Point], relation: str, wanted: float) -> str:
    """Return how many prompts a power needs, in a sentence."""
    count = needed(points, relation, wanted)
    last = points[-1]
    if count is None:
        reached = last.related[relation]
        return (
            f"a power of {wanted:.0%} ({relation}) is not reached with all {last.prompts:,} "
            f"prompts: {_of(reached)}, 95 % interval {_interval(reached)}"
        )
    reached = next(point for point in points if point.prompts == count).related[relation]
    return (
        f"a power of {wanted:.0%} ({relation}) needs {count:,} prompts: {_of(reached)}, 95 % "
        f"interval {_interval(reached)}"
    )


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.0%} to {high:.0%}"


def costs(*, count: int | None, cost: float | None, prompts: int, bought: int | None) -> list[str]:
    """Return what the prompts needed cost, and how many a budget buys, each if it is known."""
    lines = []
    if count is not None and count > prompts:
        lines.append(f"there are {prompts:,} prompts to ask, fewer than that")
    if cost is not None:
        lines.append(f"{count:,} prompts cost about {_money(cost)}")
    if bought is not None:
        some = f"all {prompts:,}" if bought == prompts else f"{bought:,} of {prompts:,}"
        lines.append(f"the budget buys {some} prompts")
    return lines


def _money(amount: float) -> str:
    """Return an amount to two places, or to two digits where that would be nothing."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"
