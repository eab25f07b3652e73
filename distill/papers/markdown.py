"""Text of others in Markdown: as it was written, in its place, with nothing hidden or obeyed.

Every mark of CommonMark and of GitHub's dialect that could begin markup gets a backslash, and so
does what is taken for a link without any mark. Names, terms and file names come from
configs, servers and manifests, and a hub renders cards with HTML.
"""

import re
from collections.abc import Iterable, Sequence

from audit.report.reveal import reveal

_MARKS = re.compile(r"[\\`*\[\]<&|~$]|(?<![^\W_])_|_(?![^\W_])")
# What begins a heading, a quote, a list or a rule where a line, a cell or an item begins.
_FIRST = re.compile(r"^([-+=#>]|\d+(?=[.)]))")
_LINK = re.compile(r"\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)", re.IGNORECASE)
_WEB = re.compile(r"https?://[!-;=?-{}~]+")  # no space, no angle bracket, no bar


def inline(text: str) -> str:
    """Return text that stays one piece of plain text: in a paragraph, a cell or an item."""
    line = _MARKS.sub(r"\\\g<0>", " ".join(reveal(text).split()))
    line = _FIRST.sub(lambda match: _held(match[0]), line)
    return _LINK.sub(r"\g<0>\\", line)


def _held(first: str) -> str:
    return f"{first}\\" if first.isdigit() else f"\\{first}"


def link(url: str) -> str:
    """Return a link that shows where it leads; what is no web address stays text."""
    return f"<{url}>" if _WEB.fullmatch(url) else inline(url)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its cells already Markdown of one line each."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]
