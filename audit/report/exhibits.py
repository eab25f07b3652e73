"""Exhibits as a page shows them: answers cut to fit, with the words that both of two share marked.

What most speaks for a finding and what most speaks against it stand side by side, as many of one
as of the other, so that neither is easier to find.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup, escape

from audit.evidence import Exhibit, ProbeResult
from audit.report.frame import cut
from audit.report.reveal import reveal

_WORD = re.compile(r"\w+")
_RUN = 3  # words in a row that two answers must share to be marked


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A prompt or an answer: its name, what is shown, how many characters are left out."""

    name: str
    shown: Markup
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One exhibit, ready to print."""

    id: str
    side: str
    note: str
    prompt: Text
    answers: tuple[Text, ...]


def rows(probe: ProbeResult, most: int, length: int) -> list[tuple[Shown, ...]]:
    """Return exhibits in pairs, one for the finding and one against it; the unsorted one by one.

    Args:
        probe: whose exhibits.
        most: of each side.
        length: of a text, in characters.
    """
    likest, least = (_of(probe, side)[:most] for side in ("for", "against"))
    pairs = zip_longest(likest, least)
    alone = ((one,) for one in _of(probe, "unsorted")[:most])
    return [
        tuple(_shown(one, probe.needs == "text", length) for one in row if one is not None)
        for row in (*pairs, *alone)
    ]


def left_out(probe: ProbeResult, most: int) -> int:
    """Return how many exhibits of a probe `rows` leaves out."""
    return sum(max(0, len(_of(probe, side)) - most) for side in ("for", "against", "unsorted"))


def _of(probe: ProbeResult, side: str) -> list[Exhibit]:
    return [one for one in probe.exhibits if one.side == side]


def _shown(exhibit: Exhibit, compared: bool, length: int) -> Shown:
    """Return an exhibit; words are marked where its first two answers were `compared`."""
    texts = {name: cut(answer, length) for name, answer in exhibit.answers.items()}
    pair = list(texts)[:2] if compared and len(texts) > 1 else []
    runs = _runs(texts[pair[0]][0]) & _runs(texts[pair[1]][0]) if pair else set()
    said, left = cut(exhibit.prompt, length)
    return Shown(
        id=exhibit.id,
        side=exhibit.side,
        note=exhibit.note,
        prompt=Text(name="", shown=escape(reveal(said)), left=left),
        answers=tuple(
            Text(name=name, shown=marked(text, runs if name in pair else set()), left=left)
            for name, (text, left) in texts.items()
        ),
    )


Run = tuple[str, ...]


def _words(text: str) -> list[re.Match[str]]:
    return list(_WORD.finditer(text))


def _runs_of(words: Sequence[re.Match[str]]) -> Iterator[Run]:
    said = [word[0].casefold() for word in words]
    return (tuple(said[at : at + _RUN]) for at in range(len(said) - _RUN + 1))


def _runs(text: str) -> set[Run]:
    return set(_runs_of(_words(text)))


def marked(text: str, runs: set[Run]) -> Markup:
    """Return a text, escaped and with hidden characters shown, the words of `runs` in marks."""
    words, parts, end = _words(text), list[Markup](), 0
    hits = [at for at, run in enumerate(_runs_of(words)) if run in runs]
    for first, last in _stretches(hits):
        begin, stop = words[first].start(), words[last].end()
        parts.append(escape(reveal(text[end:begin])))
        parts.append(Markup("<mark>{}</mark>").format(reveal(text[begin:stop])))
        end = stop
    return Markup("").join([*parts, escape(reveal(text[end:]))])


def _stretches(hits: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return first and last word of each stretch of runs that touch or overlap."""
    place = 0
    while place < len(hits):
        first = hits[place]
        while place + 1 < len(hits) and hits[place + 1] <= hits[place] + _RUN:
            place += 1
        yield first, hits[place] + _RUN - 1
        place += 1
