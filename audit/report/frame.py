"""What every page of this project shares: one style, one content policy, one way to show a value.

A page carries its style and its drawings within itself. Its content policy allows that one style,
by digest, and nothing else: no script, no font, no request. Whatever a template prints is escaped
and its hidden characters are shown, without the template asking for it.
"""

import base64
import hashlib
import math
import re
from importlib.resources import files

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from audit.report.axes import number
from audit.report.charts import duration
from audit.report.languages import Catalogue
from audit.report.reveal import reveal

MOST_BYTES = 2_000_000


def style() -> str:
    """Return the style sheet of both pages."""
    return files("audit.report").joinpath("style.css").read_text(encoding="utf-8")


def policy(css: str) -> str:
    """Return the content policy of a page whose only style is `css`."""
    hashed = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def environment(packages: tuple[str, ...]) -> Environment:
    """Return a template environment that reads `package/name.j2` from each of `packages`."""
    made = Environment(
        loader=PrefixLoader({package: PackageLoader(package, ".") for package in packages}),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, words = style(), Catalogue.load(packages)
    made.globals.update(style=Markup(css), policy=policy(css), digest_code=digest_code)
    made.globals.update(say=words.say, label=words.label)
    made.filters.update(told=words.told, title=words.title, drawing=words.drawing)
    absent = _absent(words.say("none"))
    made.filters.update(
        figure=lambda value: absent if value is None else figure(value),
        p_value=lambda value: absent if value is None else p_value(value),
        duration=duration,
        clip=clip,
    )
    made.filters.update(sentence=sentence)
    return made


def _shown(value: object) -> object:
    """Show hidden characters in all that a template prints; markup has been through this."""
    return reveal(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def digest_code(sha256: str) -> Markup:
    """Return a digest in the type of code, free to break anywhere."""
    return Markup('<code class="digest">{}</code>').format(reveal(sha256))


def figure(value: float | None) -> Markup:
    """Return a number as a reader wants it, with the exact one kept for machines."""
    if value is None:
        return _absent("none")
    return Markup('<data value="{}">{}</data>').format(repr(value), number(value))


def _absent(word: str) -> Markup:
    return Markup('<span class="absent">{}</span>').format(word)


def p_value(value: float | None) -> Markup:
    """Return a p-value to three decimals, or to two figures where three decimals would hide it."""
    if value is None or not math.isfinite(value) or value < 0.001:
        return figure(value)
    return Markup('<data value="{}">{:.3f}</data>').format(repr(value), value)


def sentence(text: str) -> str:
    """Return a clause as a sentence: with a capital and a full stop."""
    closed = text if text.endswith((".", "?", "!")) else f"{text}."
    return closed[:1].upper() + closed[1:]


_BLANK = re.compile(r"(?:[ \t]*\n){4,}")


def cut(text: str, length: int) -> tuple[str, int]:
    """Return the first `length` characters of `text`, and how many are left out.

    Blank lines in a row, which an untrained model writes by the page, are counted instead.
    """
    text = _BLANK.sub(
        lambda match: f"\n\u27e8{match[0].count(chr(10)) - 1} blank lines\u27e9\n", text
    )
    return text[:length], max(0, len(text) - length)


def clip(text: str, length: int) -> str:
    """Return `text` cut to `length` characters, saying how many are left out."""
    shown, left = cut(text, length)
    return f"{shown} [\u2026 {left:,} more characters in the JSON file]" if left else shown
