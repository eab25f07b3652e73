"""Numbers of a config: which there may be, and what is said of one that may not."""

import sys
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt
from pydantic import ConfigDict

from student.errors import ConfigError

Positive = Annotated[int, Gt(0)]
Natural = Annotated[int, Ge(0)]
Span = Annotated[int, Ge(2)]
PositiveFloat = Annotated[float, Gt(0)]
Base = Annotated[float, Gt(1)]

LARGEST = 2**63 - 1  # what a tensor's size may be

FORBID = ConfigDict(extra="forbid")


def check_fields(config: Any) -> None:
    """Hold each field to the type and bounds its annotation states, whoever made the object.

    Raises:
        ConfigError: names the field and the rule it breaks.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and NoneType in options:
            continue
        (hint,) = (option for option in options if option is not NoneType)
        _check_value(field.name, value, hint)


def _check_value(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Annotated:
        check_number(name, value, *get_args(hint))
    elif get_origin(hint) is Literal:
        if value not in get_args(hint):
            known = " or ".join(get_args(hint))
            raise ConfigError(f"{name} is {value!r}; it must be {known}.")
    elif not isinstance(value, kind := get_origin(hint) or hint):
        raise ConfigError(f"{name} is {value!r}; it must be of type {kind.__name__}.")


def check_number(name: str, value: Any, kind: type, bound: Gt | Ge) -> None:
    """Hold one number to its type and bound.

    Raises:
        ConfigError: names it and the rule it breaks.
    """
    whole = kind is int
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    limit = LARGEST if whole else sys.float_info.max
    if number and limit < value < float("inf"):
        raise ConfigError(f"{name} is too large a number; it must be at most {limit}.")
    if not number or not abs(value) <= limit:
        wanted = "a whole number" if whole else "a finite number"
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}.")
    if isinstance(bound, Gt) and not value > bound.gt:
        raise ConfigError(f"{name} is {value}; it must be above {bound.gt}.")
    if isinstance(bound, Ge) and not value >= bound.ge:
        raise ConfigError(f"{name} is {value}; it must be at least {bound.ge}.")
