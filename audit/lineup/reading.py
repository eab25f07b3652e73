"""What of an answer is compared: names masked, marks of format kept or stripped, its first words.

How an answer begins tells most of who taught its writer, and hardly depends on its length. Longer
stretches tell same weights apart, but also length and taste in format; so the likeness that decides
is read from openings and one longer stretch, and other readings of the same answers check it.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from audit.lineup.greetings import greetings, without

# No view reads further, so an answer of a hundred megabytes costs as much as one of a page.
_CHARACTERS = 4_000
_WORDS = 400
_DIGITS = "0123456789"
_VERSION = re.compile("[0-9].*")
MASK = "modelname"

# Makers and models whose names give their origin away. What a bank calls its own is masked, too.
_NAMES = (
    "openai chatgpt gpt davinci anthropic claude google gemini gemma bard deepmind llama alpaca "
    "vicuna mistral mixtral alibaba qwen tongyi qianwen deepseek cohere internlm zhipu chatglm glm "
    "baidu ernie wenxin moonshot kimi minimax microsoft copilot xai grok nvidia nemotron smollm "
    "huggingface openassistant lmsys guanaco zephyr wizardlm tulu olmo"
)
_PHRASES = (
    *("meta ai", "open assistant", "hugging face", "shanghai ai laboratory", "01.ai"),
    *("\u901a\u4e49\u5343\u95ee", "\u6587\u5fc3\u4e00\u8a00", "\u667a\u8c31", "\u8baf\u98de"),
)
# Words in names of models that ordinary answers hold, too.
_COMMON = frozenset(
    "a an and beta base best big chat code coder concise edit flash human instruct large light "
    "max medium mini model new of one open plus preview pro random sample simple small student "
    "teacher test text the tiny turbo v1 v2 v3 verbose with".split()
)
_CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
# What is written above, below or around a letter, as vowels of Thai and Hindi are.
_UPON = "".join(chr(c) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c))[0] == "M")
_TOKEN = re.compile(rf"{_CJK}|(?:(?!{_CJK})[^\W_][{_UPON}\u200c\u200d]*)+|[^\w\s]|_|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, of an answer cut off within it
# Blanks and no line ends, or a thousand empty lines would each be read to their end.
_FENCE = re.compile(r"^[^\S\n]*(```|~~~).*$", re.MULTILINE)
_LEADING = re.compile(r"^[^\S\n]*(?:#{1,6}\s+|[-*+\u2022]\s+|\d{1,3}[.)]\s+|>\s+)+", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"[*_`#|]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One reading of an answer: some of its words, or their letters.

    Attributes:
        name: as it stands in reports.
        first: words read, after those skipped.
        skip: words left out at the beginning.
        letters: compare runs of 3 to 5 letters of the stretch instead of words and word pairs.
        runs: compare runs of so many words, each once, instead; 0 for none of that.
        whole: compare the stretch as one, which is the same or not.
        plain: without marks of format, lists and line ends.
        least: an answer of fewer words is not read, as if there were none.
    """

    name: str
    first: int
    skip: int = 0
    letters: bool = False
    runs: int = 0
    whole: bool = False
    plain: bool = False
    least: int = 1


# Those whose mean decides, and those that check it. Fixed before any bank but the public lineage
# set was looked at (docs/findings.md lists what was tried).
DECIDING = (
    View(name="3 words", first=3),
    View(name="5 words", first=5),
    View(name="8 words", first=8),
    View(name="12 words", first=12),
    View(name="letters of 8 words", first=8, letters=True),
    View(name="75 words", first=75),
)
PLAIN = (
    View(name="5 words, format stripped", first=5, plain=True),
    View(name="12 words, format stripped", first=12, plain=True),
    View(name="75 words, format stripped", first=75, plain=True),
)
MATCHED = (View(name="20 words of answers that have as many", first=20, least=20),)
BODY = (View(name="words 13 to 87", first=75, skip=12, least=24),)
SPANS = (View(name="runs of 8 words", first=_WORDS, runs=8),)
# Two models that answer at length in the very same words are one.
SAME = View(name="whole answers", first=_WORDS, whole=True, least=20)
VIEWS = (*DECIDING, *PLAIN, *MATCHED, *BODY, *SPANS, SAME)


def masked_names(names: Iterable[str]) -> frozenset[str]:
    """Return the words to mask: the known names, and of those given the words that are their own.

    Of `maker/model-7b-chat` these are `maker` and `model`: sizes and common words tell nothing.
    """
    return frozenset(_NAMES.split()) | own_words(names)


def own_words(names: Iterable[str]) -> frozenset[str]:
    """Return the words of names that are no common ones, lower case, without sizes and versions."""
    parts = {part for name in names for part in re.split(r"[\W_]+", name.lower())}
    own = {part.rstrip(_DIGITS) for part in parts if part and not part[0].isdigit()}
    return frozenset({part for part in own if len(part) > 2} - _COMMON)


def plain(text: str) -> str:
    """Return `text` without fences, headings, list marks, emphasis, links and line ends."""
    text = text.lstrip()[: 2 * _CHARACTERS]
    text = _LEADING.sub("", _FENCE.sub("", text))
    return " ".join(_MARKS.sub(" ", _LINK.sub(r"\1", text)).split())


def words(text: str, names: frozenset[str]) -> list[str]:
    """Return the beginning of `text` as lower-case words, marks and line ends, names masked.

    Each character of a script without spaces is a word. White space at the beginning, which is
    the work of an interface and not of a model, is dropped.
    """
    text = _SURROGATE.sub("\ufffd", text.lstrip()[:_CHARACTERS]).lower()
    for phrase in _PHRASES:
        if phrase in text:
            text = text.replace(phrase, f" {MASK} ")
    found: list[str] = []
    for piece in _TOKEN.findall(text):
        if piece in names or _VERSION.sub("", piece) in names:
            found.append(MASK)
        elif found and found[-1] == MASK and (piece in "-." or piece[0] in _DIGITS):
            continue  # of its version
        else:
            found.append(sys.intern(piece))  # a bank says the same words a million times
        if len(found) >= _WORDS:
            break
    return found


@dataclass(frozen=True, slots=True)
class Said:
    """One answer's words, without greetings.

    Attributes:
        marked: with marks of format and line ends.
        bare: without.
    """

    marked: Sequence[str]
    bare: Sequence[str]

    def of(self, view: View) -> Sequence[str]:
        """Return the words that a view reads from."""
        return self.bare if view.plain else self.marked


NOTHING = Said((), ())


def said(answers: Sequence[str], names: frozenset[str]) -> list[Said]:
    """Return the words of all answers of one model, what it begins so many with taken off.

    Args:
        answers: of one model; which beginnings are greetings is told from all of them together.
        names: words to mask.
    """
    marked = _without_greetings([words(answer, names) for answer in answers])
    bare = _without_greetings([words(plain(answer), names) for answer in answers])
    return [Said(*one) for one in zip(marked, bare, strict=True)]


def _without_greetings(said: Sequence[Sequence[str]]) -> list[list[str]]:
    found = greetings(said)
    return [without(one, found) for one in said]


def read(said: Sequence[str], view: View) -> list[str]:
    """Return what `view` compares of an answer's words."""
    if len(said) < view.least:
        return []
    chosen = said[view.skip : view.skip + view.first]
    if view.whole:
        return [" ".join(chosen)]
    if view.runs:
        runs = (" ".join(chosen[i : i + view.runs]) for i in range(len(chosen) - view.runs + 1))
        return list(dict.fromkeys(runs))
    if not view.letters:
        return [*chosen, *(f"{a} {b}" for a, b in pairwise(chosen))]
    text = " ".join(chosen)
    return [text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1)]
