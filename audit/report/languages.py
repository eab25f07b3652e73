"""Two languages on one page: every sentence stands in English and in Simplified Chinese.

A page holds both and its style shows one, whichever its switch says; so no script is needed, and
whoever mails the page need not know what its reader reads. Templates and records are written in
English. A catalogue, TOML tables whose keys are English and whose values are Chinese, says what a
sentence is in the other language. `{name}` in a key stands for words that are the same in both:
names, numbers, or things that have entries of their own, with commas between them; `{n}` stands for
a number alone. What has no entry stays English in both.
"""

import html
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from markupsafe import Markup, escape

from audit.report.reveal import reveal

# Longer texts are answers and prompts, which nobody translates.
_MOST_CHARACTERS = 2_000
_PLACE = re.compile(r"\{(\w+)\}")
_SENTENCE_END = re.compile(r"(?<=[.?!]) +")
_CLAUSE_END = re.compile(r"(?<=[;:]) +")
# A key of fewer letters, such as "{n} of {m}", would find itself in names: its places are figures.
_FEW_LETTERS = 6
_FIGURE = re.compile(r"[-+\u2212\u00d7]?\d\S*(?: (?:\d\S*|s|min|h))*")
_DRAWN = re.compile(r"<(text|title|desc)( [^>]*)?>([^<]*)</\1>")
# A sentence ends, and its parts are joined, by other marks in Chinese, which need no space.
_ENDS = {".": "。", ";": "；", ":": "：", "?": "？", "!": "！"}
_CLOSED = frozenset(_ENDS.values())


class _Pattern(NamedTuple):
    """A key with places: the words between them, the places' names, and the Chinese."""

    literals: tuple[str, ...]
    names: tuple[str, ...]
    chinese: str

    def match(self, text: str) -> dict[str, str] | None:
        """Return what stands in each place; in one pass, whatever a hostile text holds."""
        first, last = self.literals[0], self.literals[-1]
        text = _key(text) if first else _bare(text)  # a name that comes first keeps its capital
        if not text.startswith(first) or not text.endswith(last):
            return None
        end, at = len(text) - len(last), len(first)
        found: dict[str, str] = {}
        for place, name in enumerate(self.names, start=1):
            literal = self.literals[place]
            is_last = place == len(self.names)
            to = end if is_last else text.find(literal, at + 1, end)
            if to <= at:
                return None
            # A name that comes twice stands for the same words.
            if found.setdefault(name, text[at:to]) != text[at:to]:
                return None
            at = to + len(literal)
        return found if self._fits(found) else None

    def _fits(self, found: Mapping[str, str]) -> bool:
        """Tell whether these are within one clause, and figures where there must be some."""
        values = found.values()
        if any(map(_SENTENCE_END.search, values)) or any("; " in value for value in values):
            return False
        if sum(map(str.isalpha, "".join(self.literals))) < _FEW_LETTERS:
            return all(map(_FIGURE.fullmatch, values))
        return "n" not in found or _FIGURE.match(found["n"]) is not None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What English sentences are in Chinese.

    Attributes:
        exact: sentences without a place, as `_key` writes them.
        patterns: those with places, the most particular first.
    """

    exact: Mapping[str, str]
    patterns: Sequence[_Pattern]

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> "Catalogue":
        """Return a catalogue of English keys and Chinese values."""
        exact, patterns = {}, []
        for english, chinese in entries.items():
            pieces = _PLACE.split(_key(english))
            if len(pieces) == 1:
                exact[pieces[0]] = _bare(chinese)
                continue
            literals, names = tuple(pieces[::2]), tuple(pieces[1::2])
            patterns.append(_Pattern(literals, names, _bare(chinese)))
        patterns.sort(key=lambda one: sum(map(len, one.literals)), reverse=True)
        return cls(exact, patterns)

    @classmethod
    def load(cls, packages: Iterable[str]) -> "Catalogue":
        """Return the catalogue of the `zh/*.toml` of all packages.

        Raises:
            ValueError: two of them give a sentence two meanings.
        """
        entries: dict[str, str] = {}
        for place in (place for package in packages for place in _tables(package)):
            for english, chinese in tomllib.loads(place.read_text(encoding="utf-8")).items():
                if _bare(entries.setdefault(_key(english), chinese)) != _bare(chinese):
                    raise ValueError(f"{place.name}: {english!r} has two translations")
        return cls.of(entries)

    def chinese(self, english: str) -> str | None:
        """Return `english` in Chinese, or None where nothing of it has an entry.

        A text of several sentences is translated sentence by sentence, and a sentence that has no
        entry clause by clause; what has none then stays.
        """
        if len(english) > _MOST_CHARACTERS:
            return None
        return self._parts(english, (_SENTENCE_END, _CLAUSE_END))

    def _parts(self, english: str, ends: Sequence[re.Pattern[str]]) -> str | None:
        whole = self._sentence(english)
        if whole is not None or not ends:
            return whole
        parts = ends[0].split(english)
        said = [self._parts(part, ends[1:]) for part in parts]
        if not any(said):
            return None
        words = [one or part for one, part in zip(said, parts, strict=True)]
        return "".join(one if one[-1:] in _CLOSED else f"{one} " for one in words).rstrip()

    def _sentence(self, english: str) -> str | None:
        key, end = _key(english), _ENDS.get(english[-1:], "")
        if key in self.exact:
            return self.exact[key] + end
        for pattern in self.patterns:
            found = pattern.match(english)
            if found is not None:
                return _filled(pattern.chinese, self._values(found)) + end
        said = [self._entry(part) for part in key.split(", ")]
        return "、".join(filter(None, said)) + end if len(said) > 1 and all(said) else None

    def _values(self, found: Mapping[str, str]) -> dict[str, str]:
        return {name: self._value(value) for name, value in found.items()}

    def _value(self, words: str) -> str:
        """Return what stands in a place: one thing, or several with a comma between them."""
        parts = [words] if _key(words) in self.exact else words.split(", ")
        said = [self._entry(part) for part in parts]
        if not any(said):
            return words
        return "、".join(one or part for one, part in zip(said, parts, strict=True))

    def _entry(self, words: str) -> str | None:
        """Return one of several things: words with an entry, or a count such as "3 of 7 single"."""
        said = self.exact.get(_key(words))
        if said is not None or not words[:1].isdigit():
            return said
        for pattern in self.patterns:
            found = pattern.match(words)
            if found is not None:
                values = {name: self.exact.get(_key(one), one) for name, one in found.items()}
                return _filled(pattern.chinese, values)
        return None

    def say(self, english: str, **values: object) -> Markup:
        """Return a template's own sentence in both languages, its places filled.

        Strings among `values` are shown as data is; markup, such as a figure, stays what it is.
        """
        shown = {name: _shown(value) for name, value in values.items()}
        chinese = self.in_chinese(english)
        inner = Markup(_filled(str(escape(english)), shown))
        if chinese is None:
            return inner
        return _both(inner, Markup(_filled(str(escape(chinese)), shown)))

    def in_chinese(self, english: str) -> str | None:
        """Return the Chinese of a template's own sentence, its places as they are; None without."""
        key = _key(english)
        end = _ENDS.get(english[-1:], "")
        if key in self.exact:
            return self.exact[key] + end
        pieces = _PLACE.split(key)
        wanted = tuple(pieces[::2]), tuple(pieces[1::2])
        same = (one.chinese for one in self.patterns if (one.literals, one.names) == wanted)
        found = next(same, None)
        return None if found is None else found + end

    def told(self, text: str) -> Markup:
        """Return words of a record in both languages; those without an entry as they are.

        What is in both already, because a template said it, stays what it is.
        """
        if isinstance(text, Markup):
            return text
        shown, chinese = escape(reveal(text)), self.chinese(text)
        return shown if chinese is None else _both(shown, escape(reveal(chinese)))

    def title(self, english: str, **values: str) -> str:
        """Return words where no markup may stand, such as a landmark's name: both, side by side.

        Args:
            english: a template's own words.
            values: what stands in their places, alike in both.
        """
        chinese = self.in_chinese(english) or self.chinese(english)
        both = (english,) if chinese is None else (english, chinese)
        return " · ".join(_filled(one, values) for one in both)

    def label(self, english: str) -> Markup:
        """Return the attributes by which a cell of a narrow table names its column."""
        return Markup('data-label="{}" data-label-zh="{}"').format(
            _shown(english), _shown(self.chinese(english) or english)
        )

    def drawing(self, svg: Markup) -> Markup:
        """Return a chart with the words that it shows in both languages."""
        return Markup(_DRAWN.sub(self._drawn, str(svg)))

    def _drawn(self, match: re.Match[str]) -> str:
        tag, attributes, inner = match[1], match[2] or "", match[3]
        chinese = self.chinese(html.unescape(inner))
        if chinese is None:
            return match[0]
        said = escape(reveal(chinese))
        if tag == "text":
            spans = f'<tspan class="en">{inner}</tspan><tspan class="zh" lang="zh-Hans">{said}'
            return f"<text{attributes}>{spans}</tspan></text>"
        return f'{match[0]}<{tag} lang="zh-Hans">{said}</{tag}>'


def _tables(package: str) -> list[Traversable]:
    place = files(package).joinpath("zh")
    return sorted(place.iterdir(), key=lambda one: one.name) if place.is_dir() else []


def _key(english: str) -> str:
    """Return a sentence as it stands within a longer one: no capital first, no mark at the end."""
    return _bare(english[:1].lower() + english[1:])


def _bare(text: str) -> str:
    return text.rstrip(" .;:?!。；：？！")


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _PLACE.sub(lambda match: str(values.get(match[1], match[0])), text)


def _shown(value: object) -> Markup:
    return value if isinstance(value, Markup) else escape(reveal(str(value)))


def _both(english: Markup, chinese: Markup) -> Markup:
    return Markup('<span class="en">{}</span><span class="zh" lang="zh-Hans">{}</span>').format(
        english, chinese
    )
