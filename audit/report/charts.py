"""Charts as inline SVG: pure functions from numbers to markup.

Colours and text sizes come from classes in `style.css`, so one drawing serves light, dark and
print. Kinds of mark differ in shape or dash as well as in colour. Every drawing carries a title
and a description; the numbers it shows stand in a table beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from audit.evidence import Member, PromptRow
from audit.report.axes import (
    CHARACTER,
    LONGEST,
    WIDTH,
    Scale,
    at,
    bottom_axis,
    dots,
    line,
    log_spread,
    number,
    path,
    power_of_ten,
    shorten,
    spread,
    svg,
    text,
    times_ten,
)

LEFT, RIGHT = 54, WIDTH - 18
PLOT, SQUARE = 170, 260
MOST_PAIRS = 40
STYLES = 6
HEAT_LEVELS = 8
MOST_POINTS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the key.
        values: one for each x; None or not finite where there is none.
        joined: whether the line passes over a value that is not there; else it leaves a gap.
    """

    name: str
    values: Sequence[float | None]
    joined: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """One row of a dot chart: an estimate with its 95 % interval."""

    label: str
    point: float
    low: float
    high: float


def line_chart(
    x: Sequence[float],
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> Markup:
    """Return one or several series over `x`.

    A long series is thinned to the lowest and the highest value of each stretch, so spikes stay.
    On a logarithmic axis, values that are not positive are left out.

    Raises:
        ValueError: a series is not as long as `x`.
    """
    if any(len(one.values) != len(x) for one in series):
        raise ValueError("every series needs one value for each x")
    drawn = [_points(x, one, log_y) for one in series]
    values = [y for points in drawn for _, y in points if y is not None]
    top, legend = _legend([one.name for one in series])
    across = Scale(*_ends(x), LEFT, RIGHT)
    low, high = log_spread(values) if log_y else spread(values)
    if not log_y and min(values, default=0.0) >= 0:
        low = max(low, 0.0)
    up = Scale(low, high, top + PLOT, top, log_y)
    parts = [*_left_axis(up, y_label), *legend]
    parts += bottom_axis(across, top + PLOT, x_label, top=top + PLOT)
    for style, points in enumerate(drawn):
        parts.append(path(_trace(points, across, up), f"line s{style % STYLES + 1}"))
    return svg(top + PLOT + 44, title, _line_summary(series, drawn), parts)


def _left_axis(up: Scale, label: str) -> list[Markup]:
    """Return grid lines, their values at the left, and what they measure above."""
    ticks = up.ticks()
    exponent = 0 if up.log else power_of_ten(ticks)
    note = times_ten(exponent) + (" (log scale)" if up.log else "")
    parts = [text(2, 14, shorten(label, LONGEST - len(note)) + note, kind="label")]
    for value in ticks:
        parts.append(line(LEFT, up(value), RIGHT, up(value), "grid"))
        label = number(value / 10**exponent)
        parts.append(text(LEFT - 7, up(value) + 4, label, anchor="end"))
    return parts


def _ends(x: Sequence[float]) -> tuple[float, float]:
    low, high = min(x, default=0.0), max(x, default=1.0)
    return (low, high) if high > low else (low, low + 1)


def _points(x: Sequence[float], one: Series, log_y: bool) -> list[tuple[float, float | None]]:
    clean = [
        (at_x, y if y is not None and math.isfinite(y) and (y > 0 or not log_y) else None)
        for at_x, y in zip(x, one.values, strict=True)
    ]
    clean = [point for point in clean if point[1] is not None or not one.joined]
    size = math.ceil(2 * len(clean) / MOST_POINTS)
    if size <= 2:
        return clean
    stretches = (clean[start : start + size] for start in range(0, len(clean), size))
    return [point for stretch in stretches for point in _extremes(stretch)]


def _extremes(stretch: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    known = [(y, i) for i, (_, y) in enumerate(stretch) if y is not None]
    if not known:
        return stretch[:1]
    return [stretch[i] for i in sorted({min(known)[1], max(known)[1]})]


def _trace(points: list[tuple[float, float | None]], across: Scale, up: Scale) -> str:
    steps, pen_up = [], True
    for x, y in points:
        if y is not None:
            steps.append(f"{'M' if pen_up else 'L'}{at(across(x))} {at(up(y))}")
        pen_up = y is None
    # A single value has no length; a cap makes it visible.
    return "".join(steps) + ("h.01" if len(steps) == 1 else "")


def _legend(names: Sequence[str]) -> tuple[float, list[Markup]]:
    """Return where the plot starts and the key; a single series needs no key."""
    if len(names) < 2:
        return 28, []
    parts, x, y = [], 2.0, 34.0
    for style, name in enumerate(names):
        width = 34 + len(shorten(name, 40)) * CHARACTER
        if x > 2 and x + width > WIDTH:
            x, y = 2.0, y + 20
        parts.append(line(x, y - 4, x + 24, y - 4, f"line s{style % STYLES + 1}"))
        parts.append(text(x + 29, y, shorten(name, 40), kind="label"))
        x += width + 6
    return y + 14, parts


def _line_summary(
    series: Sequence[Series], drawn: Sequence[list[tuple[float, float | None]]]
) -> str:
    facts = []
    for one, points in zip(series, drawn, strict=True):
        known = [y for _, y in points if y is not None]
        if known:
            facts.append(
                f"{one.name}: from {number(known[0])} to {number(known[-1])}, "
                f"lowest {number(min(known))}, highest {number(max(known))}."
            )
    return " ".join(facts) or "No values."


def strip_plot(members: Sequence[Member], *, title: str, x_label: str) -> Markup:
    """Return every model as a mark on one axis, in a lane each for suspect, controls, references.

    The suspect is a diamond with a dashed rule through all lanes, controls are open squares,
    references are filled dots.
    """
    across = Scale(*spread(member.score for member in members), 16, WIDTH - 16)
    lanes = [
        ("suspect", "suspect", _diamonds),
        ("control", "controls: known not to have seen the teacher", _squares),
        ("reference", "references", _discs),
    ]
    parts: list[Markup] = []
    y = 4.0
    for role, caption, draw in lanes:
        lane = [member for member in members if member.role == role]
        if lane:
            parts.append(text(2, y + 14, _lane_label(caption, lane), kind="label"))
            offsets, depth = _dodge([across(member.score) for member in lane])
            middle = y + 22 + depth / 2
            parts += draw([(x, middle + dy) for x, dy in offsets])
            y += 26 + depth
    grid = bottom_axis(across, y + 4, x_label, top=0)
    rules = [
        line(across(m.score), 20, across(m.score), y + 4, "rule-suspect")
        for m in members
        if m.role == "suspect"
    ]
    return svg(y + 46, title, _strip_summary(members), [*grid, *rules, *parts])


def _lane_label(caption: str, lane: Sequence[Member]) -> str:
    if lane[0].role == "suspect":
        return ", ".join(f"{shorten(m.name, 34)}: {number(m.score)}" for m in lane)
    return f"{len(lane)} {caption}"


def _dodge(positions: Sequence[float]) -> tuple[list[tuple[float, float]], float]:
    """Return each mark's place and offset from the lane's middle so that none hide another."""
    spacing, last, levels = 7.5, list[float](), list[tuple[float, int]]()
    for x in sorted(positions):
        level = next((i for i, used in enumerate(last) if x - used >= spacing), len(last))
        last[level : level + 1] = [x]
        levels.append((x, level))
    step = min(spacing, 90 / len(last))
    # Levels alternate about the middle: 0, -1, +1, -2, ...
    shifted = [(x, step * (-(i + 1) // 2 if i % 2 else i // 2)) for x, i in levels]
    return shifted, step * len(last) + 8


def _diamonds(points: Sequence[tuple[float, float]]) -> list[Markup]:
    shape = "".join(f"M{at(x)} {at(y - 8)}l7 8l-7 8l-7-8z" for x, y in points)
    return [path(shape, "mark-suspect")]


def _squares(points: Sequence[tuple[float, float]]) -> list[Markup]:
    return [dots(points, "square-outer"), dots(points, "square-inner")]


def _discs(points: Sequence[tuple[float, float]]) -> list[Markup]:
    return [dots(points, "disc")]


def _strip_summary(members: Sequence[Member]) -> str:
    facts = []
    for role in ("suspect", "control", "reference"):
        scores = sorted(member.score for member in members if member.role == role)
        if len(scores) == 1:
            facts.append(f"{role}: {number(scores[0])}.")
        elif scores:
            low, high = number(scores[0]), number(scores[-1])
            facts.append(f"{len(scores)} {role}s from {low} to {high}.")
    return " ".join(facts) or "No models."


def dot_interval_chart(rows: Sequence[Interval], *, title: str, x_label: str) -> Markup:
    """Return one row an estimate: its point, its 95 % interval, and a line at zero."""
    across = Scale(*spread([0.0, *(v for row in rows for v in (row.low, row.high))]), 12, RIGHT)
    bottom = 38.0 * len(rows) + 4
    parts = bottom_axis(across, bottom, x_label, top=0)
    for place, row in enumerate(rows):
        y = 38.0 * place + 15
        value = f"{number(row.point)} [{number(row.low)}, {number(row.high)}]"
        room = int((RIGHT - 12) / CHARACTER) - len(value) - 1
        parts.append(text(12, y, shorten(row.label, room), kind="label"))
        parts.append(text(RIGHT, y, value, anchor="end", kind="label"))
        # The line at zero is broken at the labels, which it would strike through.
        parts.append(line(across(0), y + 5, across(0), y + 22, "zero"))
        parts.append(_whisker(across(row.low), across(row.high), y + 13))
        parts.append(dots([(across(row.point), y + 13)], "dot-estimate"))
    above = sum(row.low > 0 for row in rows)
    summary = f"{len(rows)} estimates; {above} with the whole interval above zero."
    return svg(bottom + 42, title, summary, parts)


def _whisker(low: float, high: float, y: float) -> Markup:
    ends = f"M{at(low)} {at(y - 4)}v8M{at(high)} {at(y - 4)}v8"
    return path(f"{ends}M{at(low)} {at(y)}H{at(high)}", "whisker")


def paired_dots(rows: Sequence[PromptRow], *, title: str, unit: str) -> Markup:
    """Return each prompt's suspect value against the mean of the others on the same prompt.

    Up to `MOST_PAIRS` prompts are drawn as joined pairs in order of difference. More would hide
    one another, so they are drawn as one dot each, about the line where both are equal.
    """
    above = sum(row.suspect > row.others for row in rows)
    summary = f"The suspect is higher on {above} of {len(rows)} prompts."
    draw = _pairs if len(rows) <= MOST_PAIRS else _scatter
    return svg(SQUARE + 94, title, summary, [*draw(rows, unit), text(2, 34, summary)])


def _pairs(rows: Sequence[PromptRow], unit: str) -> list[Markup]:
    ordered = sorted(rows, key=lambda row: (row.suspect - row.others, row.id))
    up = Scale(*spread(v for row in rows for v in (row.suspect, row.others)), 72 + SQUARE - 24, 72)
    across = Scale(-0.5, max(len(rows), 1) - 0.5, LEFT, RIGHT)
    places = [(across(i), up(row.suspect), up(row.others)) for i, row in enumerate(ordered)]
    joins = "".join(f"M{at(x)} {at(one)}V{at(other)}" for x, one, other in places)
    others = [(x, other) for x, _, other in places]
    return [
        *_left_axis(up, unit),
        dots([(10, 50)], "dot-suspect"),
        text(20, 54, "suspect", kind="label"),
        dots([(104, 50)], "ring-outer"),
        dots([(104, 50)], "ring-inner"),
        text(114, 54, "mean of the others", kind="label"),
        path(joins, "join"),
        dots(others, "ring-outer"),
        dots(others, "ring-inner"),
        dots([(x, one) for x, one, _ in places], "dot-suspect"),
        line(LEFT, up.start, RIGHT, up.start, "axis"),
        text((LEFT + RIGHT) / 2, SQUARE + 84, "prompts, by difference", anchor="middle"),
    ]


def _scatter(rows: Sequence[PromptRow], unit: str) -> list[Markup]:
    low, high = spread(v for row in rows for v in (row.suspect, row.others))
    up, across = Scale(low, high, 50 + SQUARE, 50), Scale(low, high, LEFT, RIGHT)
    return [
        *_left_axis(up, f"suspect, {unit}"),
        *bottom_axis(across, up.start, "mean of the others, same unit", top=up.end),
        line(across(low), up(low), across(high), up(high), "zero"),
        text(RIGHT - 12, 66, "equal", anchor="end"),
        dots([(across(row.others), up(row.suspect)) for row in rows], "dot-prompt"),
    ]


def heat_strip(rows: Sequence[Sequence[float]], labels: Sequence[str], *, title: str) -> Markup:
    """Return the load of each expert (column) of each layer (row), against an equal share.

    Args:
        rows: fractions of the tokens, one list a layer; a layer's fractions sum to one.
        labels: one a layer.
        title: the drawing's name.

    An equal share is half of the scale; twice an equal share or more is the darkest shade. The
    figure at the right is the heaviest expert's load over the mean.
    """
    height = 24 if len(rows) <= 16 else 14
    every = 1 if len(rows) <= 16 else 2
    left, right = 10 + CHARACTER * max(map(len, labels), default=0), WIDTH - 46
    most = max(map(len, rows), default=0)
    parts = [
        text(left, 13, f"{most} experts", kind="label"),
        text(WIDTH - 2, 13, "max / mean", anchor="end", kind="label"),
    ]
    cells: list[list[str]] = [[] for _ in range(HEAT_LEVELS + 1)]
    for place, row in enumerate(rows):
        y = 20.0 + place * height
        for level, box in _heat_cells(row, Scale(0, len(row), left, right), y, height - 2):
            cells[level].append(box)
        if place % every == 0:
            parts.append(text(2, y + height / 2 + 3, labels[place]))
            ratio = f"{_imbalance(row):.2f}"
            parts.append(text(WIDTH - 2, y + height / 2 + 3, ratio, anchor="end"))
    parts += [path("".join(boxes), f"heat h{level}") for level, boxes in enumerate(cells) if boxes]
    bottom = 20 + len(rows) * height
    idle = sum(value == 0 for row in rows for value in row)
    worst = max(map(_imbalance, rows), default=0.0)
    summary = f"{len(rows)} layers; largest max / mean {worst:.2f}; {idle} experts with no token."
    return svg(bottom + 48, title, summary, [*parts, *_heat_key(left, right, bottom + 12)])


def _imbalance(row: Sequence[float]) -> float:
    return max(row) * len(row) / (sum(row) or 1.0)


def _heat_cells(
    row: Sequence[float], across: Scale, y: float, height: float
) -> list[tuple[int, str]]:
    gap = 1 if across(1) - across(0) > 4 else 0
    boxes = []
    for place, value in enumerate(row):
        level = min(HEAT_LEVELS, round(value * len(row) * HEAT_LEVELS / 2))
        width = across(place + 1) - across(place) - gap
        box = f"M{at(across(place))} {at(y)}h{at(width)}v{at(height)}h-{at(width)}z"
        boxes.append((level, box))
    return boxes


def _heat_key(left: float, right: float, y: float) -> list[Markup]:
    across = Scale(0, HEAT_LEVELS + 1, left, right)
    width = at(across(1) - left - 1)
    parts = [
        path(f"M{at(across(level))} {at(y)}h{width}v10h-{width}z", f"heat h{level}")
        for level in range(HEAT_LEVELS + 1)
    ]
    parts.append(text(left, y + 25, "idle"))
    parts.append(text((left + right) / 2, y + 25, "equal share", anchor="middle"))
    parts.append(text(right, y + 25, "twice or more", anchor="end"))
    return parts


def time_split_bar(seconds: Mapping[str, float], *, title: str) -> Markup:
    """Return how a duration divides into parts: a bar, and a line of text for each part."""
    total = sum(seconds.values()) or 1.0
    across = Scale(0, total, 2, WIDTH - 2)
    parts, begun = [], 0.0
    for place, (name, part) in enumerate(seconds.items()):
        kind = f"part f{place % STYLES + 1}"
        y = 46.0 + 22 * place
        width = max(across(begun + part) - across(begun) - 2, 0.5)
        parts.append(path(f"M{at(across(begun))} 2h{at(width)}v24h-{at(width)}z", kind))
        parts.append(path(f"M2 {at(y - 10)}h12v12h-12z", kind))
        parts.append(text(22, y, shorten(name, 24), kind="label"))
        share = f"{duration(part)}, {part / total:.0%}"
        parts.append(text(WIDTH - 2, y, share, anchor="end", kind="label"))
        begun += part
    said = "; ".join(f"{name} {duration(part)}" for name, part in seconds.items())
    return svg(40 + 22 * len(seconds), title, said or "No time recorded.", parts)


def duration(seconds: float) -> str:
    """Return a length of time in the units a person would use."""
    if seconds < 90:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
