"""Make characters visible that a page would hide or obey.

What a suspect wrote is hostile input: a control character, a bidirectional override or a
zero-width mark could reorder or hide text on the page that accuses it. The ranges are written out
rather than looked up, so that a page does not depend on the Unicode version of the interpreter.
"""

import re
from collections.abc import Callable
from typing import Any

_NONCHARACTERS = "".join(
    f"{chr(plane + 0xFFFE)}-{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, except tab and line feed
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"  # zero width, separators, bidi
    "\ud800-\udfff\ufdd0-\ufdef"  # lone surrogates, noncharacters
    "\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"  # selectors (not those of emoji), marks
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # musical controls, tags, more selectors
    f"{_NONCHARACTERS}]"
)
_LONE = re.compile("[\ud800-\udfff]")


def reveal(text: str) -> str:
    """Return `text` with hidden characters written as code points: U+202E in angle brackets."""
    return _HIDDEN.sub(_code_point, text)


def reveal_line(text: str) -> str:
    """Return the same on one line: a line feed in a file's name is no line of a terminal's."""
    return reveal(re.sub("[\t\n]", _code_point, text))


def reveal_all(value: Any) -> Any:
    """Return texts, lists and mappings with `reveal` applied to every text in them."""
    return _throughout(value, reveal)


def reveal_halves(value: Any) -> Any:
    """Return texts, lists and mappings with halves of surrogate pairs written as code points.

    JSON can spell half of a pair, and a file name that is not UTF-8 is read as such halves; no
    UTF-8 file can hold one. All other characters stay: a record keeps what was said.
    """
    return _throughout(value, lambda text: _LONE.sub(_code_point, text))


def _throughout(value: Any, shown: Callable[[str], str]) -> Any:
    match value:
        case str():
            return shown(value)
        case dict():
            inner = value.items()
            return {_throughout(key, shown): _throughout(one, shown) for key, one in inner}
        case list() | tuple():
            return [_throughout(one, shown) for one in value]
    return value


def _code_point(match: re.Match[str]) -> str:
    return f"\u27e8U+{ord(match[0]):04X}\u27e9"
