"""The paper that charts are drawn on: number formats, round ticks, scales, SVG elements.

Every chart is `WIDTH` units wide and scales to its column. The style sheet sets text to 12 units
on wide screens and 14.5 on narrow ones, so layouts leave `CHARACTER` units for a letter.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from audit.report.reveal import reveal

WIDTH = 440
CHARACTER = 7.6
LONGEST = 56  # characters of an axis label
_SUPERSCRIPT = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_MINUS = "\u2212"


def number(value: float) -> str:
    """Return `value` to three significant figures, as a reader would write it."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if value and not 1e-4 <= size < 1e15:
        mantissa, exponent = f"{value:.2e}".split("e")
        short = mantissa.rstrip("0").rstrip(".").replace("-", _MINUS)
        return f"{short}\u00d710{str(int(exponent)).translate(_SUPERSCRIPT)}"
    text = f"{value:,.0f}" if size >= 999.5 else f"{value:.3g}"
    return text.replace("-", _MINUS)


def power_of_ten(values: Iterable[float]) -> int:
    """Return the exponent to set beside an axis so that its tick labels stay short, else 0."""
    size = max(map(abs, values), default=0.0)
    return 3 * math.floor(math.log10(size) / 3) if 0 < size < 0.01 or size >= 1e5 else 0


def times_ten(exponent: int) -> str:
    """Return the factor that a tick label is to be multiplied by, as text; none for 0."""
    return f", \u00d710{str(exponent).translate(_SUPERSCRIPT)}" if exponent else ""


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from data values to positions, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of `value`."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the scale, about `count` of them."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def spread(values: Iterable[float], *, pad: float = 0.05) -> tuple[float, float]:
    """Return the range of `values`, widened by the fraction `pad`; never empty."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def log_spread(values: Iterable[float]) -> tuple[float, float]:
    """Return the range of the positive `values`, widened by a tenth on a logarithmic axis."""
    logs = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
    low, high = spread(logs, pad=0.06)
    return 10**low, 10**high


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    if high / low < 10:
        return Scale(low, high, 0, 1).ticks(4)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low) > 2
    found = [m * 10.0**d for d in decades for m in ((1,) if wide else (1, 2, 5))]
    inside = [value for value in found if low <= value <= high]
    return inside[:: max(1, math.ceil(len(inside) / 7))]


def at(value: float) -> str:
    """Return a coordinate, to a tenth of a unit."""
    return f"{round(value, 1):g}"


def shorten(label: str, length: int) -> str:
    """Return `label` with hidden characters shown, cut to `length` in the middle."""
    shown = " ".join(reveal(label).split())
    if len(shown) <= length:
        return shown
    # Names of one family differ at the end as often as at the start: keep both.
    tail = length // 3
    return f"{shown[: length - tail - 1]}\u2026{shown[-tail:]}"


def text(x: float, y: float, label: str, *, anchor: str = "start", kind: str = "tick") -> Markup:
    """Return a `<text>` element; `label` is escaped."""
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        at(x), at(y), anchor, kind, reveal(label)
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight `<path>` of the style class `kind`."""
    return path(f"M{at(x1)} {at(y1)}L{at(x2)} {at(y2)}", kind)


def path(d: str, kind: str) -> Markup:
    """Return a `<path>` with the drawing commands `d` and the style class `kind`."""
    return Markup('<path class="{}" d="{}"/>').format(kind, d)


def dots(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """Return all `points` as one path of line caps: a tenth of the bytes of one circle each."""
    return path("".join(f"M{at(x)} {at(y)}h.01" for x, y in points), kind)


def svg(height: float, title: str, description: str, parts: Sequence[Markup]) -> Markup:
    """Return a whole drawing with its name and description for those who cannot see it."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(WIDTH, at(height), reveal(title), reveal(description), Markup("").join(parts))


def bottom_axis(scale: Scale, y: float, label: str, *, top: float) -> list[Markup]:
    """Return vertical grid lines from `top` to `y`, tick labels and the axis `label` below."""
    parts: list[Markup] = []
    for value in scale.ticks():
        parts.append(line(scale(value), top, scale(value), y, "grid"))
        parts.append(text(scale(value), y + 17, number(value), anchor="middle"))
    parts.append(line(scale.start, y, scale.end, y, "axis"))
    named = shorten(label, LONGEST)
    parts.append(text((scale.start + scale.end) / 2, y + 35, named, anchor="middle", kind="label"))
    return parts
