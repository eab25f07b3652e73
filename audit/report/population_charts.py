"""Charts of many findings at once: a Tippett plot, shares at a level, populations in lanes.

The Tippett plot (Evett and Buckleton, 1996) shows for each side of the truth how many likelihood
ratios are at least so large. Lanes are dot plots (Wilkinson, 1999): marks are stacked over their
stretch of the axis, so that none hides another. Where models are so many that stacks would grow
high, one mark stands for several; a model alone in its stretch always keeps its own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from audit.report.axes import (
    CHARACTER,
    WIDTH,
    Scale,
    at,
    bottom_axis,
    dots,
    line,
    number,
    path,
    shorten,
    spread,
    svg,
    text,
)
from audit.report.charts import LEFT, PLOT, RIGHT, Interval

START = 12
ROW = 38  # of a share
PITCH = 6.6  # from mark to mark in a lane, along the axis and upwards
HIGHEST = 14 * PITCH  # of a lane; marks of a higher stack overlap
MOST_STACKED = 28

# A mark's outline about its middle. Documented negatives, which are most, stand at the bottom.
SHAPES = {
    "negative": "m-2.7 0a2.7 2.7 0 1 0 5.4 0a2.7 2.7 0 1 0-5.4 0z",
    "unknown": "m0-3.1l3.1 5.4h-6.2z",
    "positive": "m0-3.5l3.2 3.5l-3.2 3.5l-3.2-3.5z",
}
WORDS = {"negative": "unrelated", "unknown": "not decided", "positive": "related"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """Where a step of the verbal scale begins, on the axis of log10 LR, and its word."""

    at: float
    word: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A model in a lane: its score, what is documented of it, and whether it is SUPPORTED."""

    score: float
    truth: str
    supported: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """A group of teachers and every model that was asked about it."""

    name: str
    marks: Sequence[Mark]


def share_at_or_above(values: Sequence[float], bound: float) -> float | None:
    """Return the share of `values` that are not below `bound`; None where there are none."""
    return sum(value >= bound for value in values) / len(values) if values else None


def tippett_plot(
    positive: Sequence[float], negative: Sequence[float], edges: Sequence[Edge], *, title: str
) -> Markup:
    """Return the share of log10 LR at or above x, of documented positives and negatives.

    Args:
        positive: log10 LR of documented positives.
        negative: log10 LR of documented negatives.
        edges: steps of the verbal scale, ascending; those within the axis are drawn.
        title: the drawing's name.
    """
    top = 72
    across = Scale(*spread([-0.5, 0.5, *positive, *negative]), LEFT, RIGHT)
    up = Scale(0, 1, top + PLOT, top)
    parts = [text(2, 14, "share of pairs at or above", kind="label"), *_tippett_key()]
    for value in up.ticks():
        parts.append(line(LEFT, up(value), RIGHT, up(value), "grid"))
        parts.append(text(LEFT - 7, up(value) + 4, f"{value:.0%}", anchor="end"))
    parts += _edges(edges, across, top)
    parts.append(line(across(0), top, across(0), top + PLOT, "zero"))
    parts += bottom_axis(across, top + PLOT, "log10 of the likelihood ratio", top=top + PLOT)
    facts = []
    for kind, name, values in (("s1", "related", positive), ("s2", "unrelated", negative)):
        if values:
            parts.append(path(_steps(values, across, up), f"line {kind}"))
            share = share_at_or_above(values, 0) or 0.0
            facts.append(f"{share:.1%} of {len(values)} {name} pairs at or above 0.")
    return svg(top + PLOT + 44, title, " ".join(facts) or "No likelihood ratios.", parts)


def _tippett_key() -> list[Markup]:
    return [
        line(2, 30, 26, 30, "line s1"),
        text(31, 34, WORDS["positive"], kind="label"),
        line(222, 30, 246, 30, "line s2"),
        text(251, 34, WORDS["negative"], kind="label"),
    ]


def _edges(edges: Sequence[Edge], across: Scale, top: float) -> list[Markup]:
    """Return a light line at each edge, and its word where it fits before the next."""
    inside = [edge for edge in edges if across.low < edge.at < across.high]
    ends = [*(across(edge.at) for edge in inside[1:]), RIGHT]
    parts = []
    for edge, end in zip(inside, ends, strict=bool(inside)):
        begin = across(edge.at)
        parts.append(line(begin, top - 8, begin, top + PLOT, "grid"))
        if end - begin >= len(edge.word) * CHARACTER:
            parts.append(text((begin + end) / 2, top - 8, edge.word, anchor="middle"))
    return parts


def _steps(values: Sequence[float], across: Scale, up: Scale) -> str:
    """Return the survival curve of `values` as a path, a step for each place on the paper."""
    places = Counter(round(across(value), 1) for value in values)
    left, d = len(values), f"M{at(across.start)} {at(up(1))}"
    for place in sorted(places):
        left -= places[place]
        d += f"H{at(place)}V{at(up(left / len(values)))}"
    return d + f"H{at(across.end)}"


def shares_chart(rows: Sequence[Interval], nominal: float, *, title: str, x_label: str) -> Markup:
    """Return a row for each share: its point, its interval, and a line at the nominal level.

    A share whose whole interval is above the level is an open square, the others are dots.
    """
    high = max([2 * nominal, *(row.high for row in rows)])
    across = Scale(0, high * 1.04, START, RIGHT)
    bottom = ROW * len(rows) + 4
    parts = bottom_axis(across, bottom, x_label, top=0)
    for place, row in enumerate(rows):
        y = ROW * place + 15
        value = f"{number(row.point)} [{number(row.low)}, {number(row.high)}]"
        room = int((RIGHT - START) / CHARACTER) - len(value) - 2
        parts.append(text(START, y, shorten(row.label, room), kind="label"))
        parts.append(text(RIGHT, y, value, anchor="end", kind="label"))
        # The level is broken at the labels, which it would strike through.
        parts.append(line(across(nominal), y + 4, across(nominal), y + 23, "zero"))
        parts.append(path(f"M{at(across(row.low))} {at(y + 13)}H{at(across(row.high))}", "whisker"))
        point = [(across(row.point), y + 13)]
        if row.low > nominal:
            parts += [dots(point, "square-outer"), dots(point, "square-inner")]
        else:
            parts.append(dots(point, "dot-estimate"))
    above = sum(row.low > nominal for row in rows)
    said = f"{len(rows)} shares; of {above} the whole interval is above {number(nominal)}."
    return svg(bottom + 42, title, said, parts)


def models_a_mark(lanes: Iterable[Lane], across: tuple[float, float]) -> int:
    """Return how many models one mark must stand for, so that no stack is too high."""
    scale = Scale(*across, START, WIDTH - START)
    stacks = [stack for lane in lanes for stack in _stacks(lane.marks, scale).values()]
    models = 1
    while any(_height(stack, models) > MOST_STACKED for stack in stacks):
        models += 1
    return models


def lanes_chart(
    lanes: Sequence[Lane], across: tuple[float, float], models: int, *, title: str, x_label: str
) -> Markup:
    """Return a lane for each group, scores on one axis.

    Args:
        lanes: from the top down.
        across: ends of the axis, which drawings side by side share.
        models: up to how many of a kind one mark stands for.
        title: the drawing's name.
        x_label: what the axis measures.

    Marks differ in shape by what is documented; those of SUPPORTED findings are filled.
    """
    scale = Scale(*across, START, WIDTH - START)
    places: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    names, y = list[Markup](), 34.0
    for lane in lanes:
        stacks = _stacks(lane.marks, scale)
        tallest = max((_height(stack, models) for stack in stacks.values()), default=1)
        step = min(PITCH, HIGHEST / tallest)
        floor = y + 20 + step * (tallest - 1) + PITCH
        names.append(text(2, y + 13, shorten(lane.name, 50), kind="label"))
        names.append(line(START, floor, WIDTH - START, floor, "grid"))
        for x, stack in stacks.items():
            for level, kind in enumerate(_marks(stack, models)):
                places.setdefault(kind, []).append((x, floor - PITCH / 2 - step * level - 1))
        y = floor + 8
    drawn = [_shapes(kind, where) for kind, where in sorted(places.items())]
    grid = bottom_axis(scale, y, x_label, top=32)
    said = " ".join(_lane_summary(lane) for lane in lanes) or "No groups."
    return svg(y + 42, title, said, [*_lanes_key(), *grid, *names, *drawn])


def _stacks(marks: Iterable[Mark], scale: Scale) -> Mapping[float, Counter[tuple[str, bool]]]:
    """Return the marks by the middle of their stretch of the axis, counted by kind."""
    stacks: dict[float, Counter[tuple[str, bool]]] = {}
    for mark in marks:
        place = math.floor((scale(mark.score) - scale.start) / PITCH)
        middle = min(scale.start + (place + 0.5) * PITCH, scale.end)
        stacks.setdefault(middle, Counter())[mark.truth, mark.supported] += 1
    return stacks


def _marks(stack: Counter[tuple[str, bool]], models: int) -> list[tuple[str, bool]]:
    """Return the kinds of a stack's marks from the bottom up."""
    order = list(SHAPES)
    kinds = sorted(stack, key=lambda kind: (order.index(kind[0]), kind[1]))
    return [kind for kind in kinds for _ in range(math.ceil(stack[kind] / models))]


def _height(stack: Counter[tuple[str, bool]], models: int) -> int:
    return sum(math.ceil(count / models) for count in stack.values())


def _shapes(kind: tuple[str, bool], places: Sequence[tuple[float, float]]) -> Markup:
    truth, supported = kind
    shape = SHAPES[truth]
    outlines = "".join(f"M{at(x)} {at(y)}{shape}" for x, y in places)
    return path(outlines, f"known {truth}{' solid' * supported}")


def _lanes_key() -> list[Markup]:
    places = {"positive": 8, "negative": 82, "unknown": 170}
    parts = []
    for truth, x in places.items():
        parts.append(_shapes((truth, False), [(x, 16)]))
        parts.append(text(x + 8, 20, WORDS[truth], kind="label"))
    # Filled in all three shapes, for the key is read before any lane is.
    filled = [_shapes((truth, True), [(274 + 9 * i, 16)]) for i, truth in enumerate(places)]
    return [*parts, *filled, text(300, 20, "filled: supported", kind="label")]


def _lane_summary(lane: Lane) -> str:
    facts = []
    for truth in reversed(SHAPES):
        scores = [mark.score for mark in lane.marks if mark.truth == truth]
        if scores:
            supported = sum(mark.supported for mark in lane.marks if mark.truth == truth)
            facts.append(
                f"{len(scores)} {WORDS[truth]} from {number(min(scores))} to "
                f"{number(max(scores))}, {supported} supported"
            )
    return f"{lane.name}: {'; '.join(facts) or 'no scores'}."
