"""Lines of a bill: an amount with the arithmetic that gives it, so that anyone can do it again.

A formula is plain arithmetic over named inputs, and the amount is worked out from the formula
itself: the two cannot part. An input nobody stated leaves the amount unknown and says what to
state; a sum says which of its parts are missing.
"""

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Group = Literal["tokens", "operations", "time", "energy", "money"]

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_OPERATIONS |= {ast.Div: operator.truediv}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a bill.

    Attributes:
        key: one word, by which formulas of other lines call it.
        group: what kind of line it is.
        name: what is counted, for a reader.
        value: how much, or None where that is unknown.
        unit: of the value.
        formula: arithmetic over `inputs`; empty for what was counted.
        inputs: the numbers of the formula, by name.
        source: where the numbers come from.
        without: names of the parts a sum is missing.
        unknown: what would make the value, or the missing parts, known.
    """

    key: str
    group: Group
    name: str
    value: float | None
    unit: str
    formula: str = ""
    inputs: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    without: tuple[str, ...] = ()
    unknown: str = ""


def counted(key: str, group: Group, name: str, value: float, unit: str, *, source: str) -> Line:
    """Return a line of what was counted, not worked out."""
    return Line(key=key, group=group, name=name, value=value, unit=unit, source=source)


def worked_out(
    key: str,
    group: Group,
    name: str,
    unit: str,
    formula: str,
    inputs: Mapping[str, float | None],
    *,
    source: str,
    unknown: str = "",
) -> Line:
    """Return a line by its formula, whose names are those of `inputs`.

    An input that is None is one nobody knows: it leaves the line unknown, and `unknown` says what
    would make it known. The other arguments are fields of `Line`.
    """
    known = {name: value for name, value in inputs.items() if value is not None}
    missing = len(known) < len(inputs)
    return Line(
        key=key,
        group=group,
        name=name,
        value=None if missing else evaluate(formula, known),
        unit=unit,
        formula=formula,
        inputs=known,
        source=source,
        unknown=unknown if missing else "",
    )


def total(key: str, group: Group, name: str, unit: str, parts: Sequence[Line]) -> Line:
    """Return the sum of what is known among `parts`; unknown when nothing is."""
    known = {line.key: line.value for line in parts if line.value is not None}
    missing = [line for line in parts if line.value is None]
    formula = " + ".join(known)
    return Line(
        key=key,
        group=group,
        name=name,
        value=evaluate(formula, known) if known else None if parts else 0,
        unit=unit,
        formula=formula,
        inputs=known,
        source="the lines above" if parts else "",
        without=tuple(line.name for line in missing),
        unknown="; ".join(dict.fromkeys(line.unknown for line in missing)),
    )


def evaluate(formula: str, inputs: Mapping[str, float]) -> float:
    """Return the value of arithmetic over named numbers.

    Raises:
        ValueError: the formula is more than that, or names something that is not there.
    """
    return _value(ast.parse(formula, mode="eval").body, inputs)


def _value(node: ast.expr, inputs: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in inputs:
            return inputs[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            made: float = _OPERATIONS[type(op)](_value(left, inputs), _value(right, inputs))
            return made
    raise ValueError(f"{ast.unparse(node)!r} is no arithmetic over {', '.join(inputs)}")
