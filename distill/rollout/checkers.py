"""Whether an answer is right: the checkers a config can name, on text alone.

White space is never told apart beyond where it stands. The first checker that accepts counts.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from distill.rollout.config import Anything, Checker, Number, Pattern, Same

# Commas between thousands, a fraction, an exponent that Decimal can compute with.
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}\b)?")


def verdict(checkers: Sequence[Checker], answer: str, references: Sequence[str]) -> str | None:
    """Return the kind of the first checker that finds `answer` right; None where none does."""
    for checker in checkers:
        # What needs no reference is asked once, with any.
        known = ("",) if isinstance(checker, Anything) else references
        if any(accepts(checker, answer, reference) for reference in known):
            return checker.kind
    return None


def accepts(checker: Checker, answer: str, reference: str) -> bool:
    """Tell whether a checker finds `answer` right."""
    match checker:
        case Anything():
            return bool(answer.strip())
        case Same(kind="contains"):
            return _plain(reference, checker.ignore_case) in _plain(answer, checker.ignore_case)
        case Same():
            return _plain(reference, checker.ignore_case) == _plain(answer, checker.ignore_case)
        case Number():
            said, known = last_number(answer), last_number(reference)
            if said is None or known is None:
                return False
            return abs(said - known) <= Decimal(str(checker.tolerance))
        case Pattern():
            found = _last_match(checker, answer)
            same = checker.ignore_case
            return found is not None and _plain(found, same) == _plain(reference, same)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, commas between thousands allowed; None without one."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _last_match(checker: Pattern, answer: str) -> str | None:
    found = None
    for match in re.finditer(checker.pattern, answer):
        found = match.group(checker.group)
    return found


def _plain(text: str, ignore_case: bool) -> str:
    joined = " ".join(text.split())
    return joined.casefold() if ignore_case else joined
