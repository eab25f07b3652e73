"""What a lab asks first of a run, in figures: did it learn, what did it cost, is it balanced.

Nothing here is measured or judged anew: a measure is better when it moved the way that is called
better, and sums are those of the bill.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.papers import curves
from distill.papers.curves import Row

# Key of the evaluation, name, and whether a lower figure is better.
_MEASURES = (
    ("kl", "KL to the teacher, nats per token", True),
    ("top1_agreement", "top-1 agreement", False),
    ("bits_per_byte", "bits per byte", True),
)
# The lines of a bill that sum up the others, by their keys, and the tokens that were trained on.
_SUMS = ("tokens_1", "flop", "device_seconds", "kilowatt_hours", "money")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A held-out measure before and after training.

    Attributes:
        name: for a reader, with its unit.
        before: of the student's first weights.
        after: of its last.
        teacher: the teacher's own, where it has one.
        better: whether it moved the way that is better.
    """

    name: str
    before: float
    after: float
    teacher: float | None
    better: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Uneven:
    """The layer whose load is the most uneven over the last steps.

    Attributes:
        layer: its number, from 1.
        layers: how many layers have experts.
        ratio: its heaviest expert's load over the mean; 1 in an even split.
        idle: experts that got no token, of all layers.
        experts: of all layers.
        steps: over which the load was averaged.
    """

    layer: int
    layers: int
    ratio: float
    idle: int
    experts: int
    steps: int


def changes(evaluation: Mapping[str, Any]) -> list[Change]:
    """Return the measures that were taken both before and after."""
    before, after = evaluation["before"], evaluation["after"]
    return [
        Change(
            name=name,
            before=before[key],
            after=after[key],
            teacher=evaluation["teacher"].get(key),
            better=after[key] < before[key] if lower else after[key] > before[key],
        )
        for key, name, lower in _MEASURES
        if before[key] is not None and after[key] is not None
    ]


def readings(comparison: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return how many comparisons with the teacher came out how."""
    return Counter(row["reading"] for row in comparison)


def sums(bill: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the lines of a bill that a reader asks for first; none without a bill."""
    lines = {line["key"]: line for line in bill["lines"]} if bill else {}
    return [lines[key] for key in _SUMS if key in lines]


def uneven(metrics: Sequence[Row]) -> Uneven | None:
    """Return the most uneven layer; None for a student without experts or a run without steps."""
    rows = curves.load_table(metrics) if metrics else []
    if not rows:
        return None
    layer, ratio, _, _ = max(rows, key=lambda row: row[1])
    return Uneven(
        layer=layer,
        layers=len(rows),
        ratio=ratio,
        idle=sum(row[3] for row in rows),
        experts=sum(map(len, metrics[-1]["expert_load"])),
        steps=len(metrics[-curves.LAST_STEPS :]),
    )


def inputs(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the kinds of what went in, and how many there were of each."""
    return list(Counter(row["kind"] for row in manifest["inputs"]).items())


def licence(manifest: Mapping[str, Any]) -> str:
    """Return the licence, as stated, of the teacher whose weights the student begins with."""
    cut = manifest["student"]["inherited"]
    named = {row["name"]: row["licence"] for row in manifest["teachers"]}
    return named.get(cut["teacher"], "") if cut else ""
