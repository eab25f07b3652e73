"""Make characters visible that a page would hide or obey.

What a suspect wrote is hostile input: a control character, a bidirectional override or a
zero-width mark could reorder or hide text on the page that accuses it. The ranges are written out
rather than looked up, so that a page does not depend on the Unicode version of the interpreter.
"""

import re

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


def reveal(text: str) -> str:
    """Return `text` with hidden characters written as code points: U+202E in angle brackets."""
    return _HIDDEN.sub(lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


_BREAKS = str.maketrans({"\n": "\u27e8U+000A\u27e9", "\t": " "})


def one_line(text: str) -> str:
    """Return `text` as one line: a line break within a name would look like another message."""
    return reveal(text).translate(_BREAKS)
