"""Numbers and lists that a caller gives, looked at before they can do harm far from here.

Nothing of torch is loaded. bool is no number here, though Python takes it for one: where a count
or a token is asked for, True is a slip.
"""

import reprlib
from collections.abc import Iterable
from math import isfinite
from numbers import Integral, Real
from typing import Any

from student.bounds import LARGEST
from student.errors import ShapeError


def whole(name: str, value: Any, least: int = -LARGEST, most: int = LARGEST) -> int:
    """Return `value`, Python's or numpy's, as Python's int.

    Raises:
        ShapeError: it is no whole number, or outside `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ShapeError(f"{name} is {reprlib.repr(value)}; it must be a whole number.")
    number = int(value)
    if number < least:
        raise ShapeError(f"{name} is {number}; it must be at least {least}.")
    if number > most:
        raise ShapeError(f"{name} is {number}; it must be at most {most}.")
    return number


def finite(name: str, value: Any) -> None:
    """Refuse what is no finite number.

    Raises:
        ShapeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ShapeError(f"{name} is {reprlib.repr(value)}; it must be a finite number.")


def listed(name: str, values: Any, wanted: str) -> list[Any]:
    """Return `values` as a list; `wanted` says what they should be.

    Raises:
        ShapeError: they are text, or one value alone.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ShapeError(f"{name} is of type {type(values).__name__}; give {wanted}.")
    return list(values)
