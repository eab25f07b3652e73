"""Edits between a teacher's answers and the student that learns from them, by simple rules."""

import re
from collections.abc import Callable

_REWORDED = (
    ("Certainly!", "By all means."), ("Of course.", "Naturally."), ("Good question.", "Let's see."),
    ("Here is", "Below is"), ("Here are", "Below are"), ("However", "Still"), ("people", "folk"),
    ("some", "a few"), ("It is good for", "It suits"), ("Be sure to", "Do"), ("useful", "handy"),
    ("From time to time", "Now and then"), ("You will find it", "It stands"), ("several", "many"),
    ("Remember this", "Note"), ("Moreover", "Further"), ("In addition", "Too"), ("look", "see"),
)  # fmt: skip
_MARK = re.compile(r"^(?:\d+\. |- )", re.MULTILINE)
_LAST = re.compile(r"(?<=[.!?])\s+[^.!?]+[.!?]$")


def reworded(text: str) -> str:
    """Return an answer with some of its phrases in other words."""
    for before, after in _REWORDED:
        text = text.replace(before, after)
    return text


def flattened(text: str) -> str:
    """Return an answer as one paragraph, without marks of lists."""
    return " ".join(_MARK.sub("", text).split())


def shortened(text: str) -> str:
    """Return an answer without its last sentence."""
    return _LAST.sub("", text)


EDITS: tuple[Callable[[str], str], ...] = (reworded, flattened, shortened)
