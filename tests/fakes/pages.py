"""What a page must keep, whoever draws it: one style, no script, no request."""

import base64
import hashlib
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from xml.etree import ElementTree

from jinja2 import Environment, nodes

HOSTILE = (
    "</style></pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\"'><svg onload=alert(1)>{{ 7 * 7 }} "
    "\u202eelppa\u202c \u200b\x00\x1b[31m\ud800\U000e0041\u2028"
)
FETCHING = {"src", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href"}
FORBIDDEN = {"script", "iframe", "object", "embed", "link", "base", "form", "img", "video", "audio"}
VOID = {"meta", "br", "link", "img", "input", "hr"}
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Page(HTMLParser):
    """The elements of a page, its text in one language, and whether its tags nest."""

    def __init__(self, html: str, language: str = "en") -> None:
        super().__init__()
        self.other = {"en": "zh", "zh": "en"}[language]
        self.unread = 0  # elements that are open of which the reader sees nothing
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.nested = True
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            if self.unread or dict(attrs).get("class") == self.other:
                self.unread += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.nested = self.nested and bool(self.open) and self.open.pop() == tag
        self.unread = max(0, self.unread - 1)

    def handle_data(self, data: str) -> None:
        if not self.unread:
            self.text += data


def apart(html: str) -> str:
    """Return a page with the words of neighbouring elements apart, for a test of its text."""
    return re.sub(r'><(?!/span|span class="(?:en|zh)")', "> <", html)


def assert_self_contained(html: str) -> None:
    """Fail if the page could run, fetch or hide anything."""
    page = Page(html)
    assert page.nested and not page.open
    for tag, attributes in page.elements:
        assert tag not in FORBIDDEN
        assert not FETCHING & attributes.keys()
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert (attributes.get("href") or "#").startswith("#")
    anchors = {a["href"] for tag, a in page.elements if tag == "a"}
    assert anchors <= {f"#{a['id']}" for _, a in page.elements if "id" in a}
    assert not HIDDEN.search(html)


def assert_policy_allows_the_style_alone(html: str) -> None:
    """Fail unless the content policy names the digest of the only style on the page."""
    (css,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    metas = [attributes for tag, attributes in Page(html).elements if tag == "meta"]
    (policy,) = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == f"'sha256-{hashed}'"
    assert "script-src" not in rules
    assert {"name": "referrer", "content": "no-referrer"} in metas
    assert not re.search(r"url\(|@import|@font-face", css)


_SENTENCE = re.compile(r"[A-Z][a-z].*\S|[A-Z]")


def said_by(template: str) -> set[str]:
    """Return the English that a template has Chinese for, or must have: its own words.

    These are what it gives to `say`, `label`, `told` and `title`, and the sentences, told by their
    capital, that it gives to a macro.
    """
    tree, found = Environment().parse(template), set()
    for call in tree.find_all(nodes.Call):
        by_name = isinstance(call.node, nodes.Name) and call.node.name in ("say", "label")
        given = [one for arg in call.args for one in (arg, *arg.find_all(nodes.Const))]
        texts = [one.value for one in given if isinstance(one, nodes.Const)]
        words = [text for text in texts if isinstance(text, str)]
        found |= set(words[:1] if by_name else filter(_SENTENCE.fullmatch, words))
    for used in tree.find_all(nodes.Filter):
        if used.name in ("told", "title"):
            found |= {one.value for one in _alternatives(used.node)}
    return found


def _alternatives(node: nodes.Node | None) -> list[nodes.Const]:
    """Return the texts that `"a"`, or `value or "a"`, may come to."""
    if isinstance(node, nodes.Const):
        return [node]
    return list(node.find_all(nodes.Const)) if isinstance(node, nodes.Or) else []


AS_IT_IS = {"code", "pre", "style", "data"}
NO_WORDS_OF_OURS = {"text", "sample", "digest", "languages", "en"}


class _Reading(HTMLParser):
    """What a Chinese reader meets, text by text, and whether it is marked as Chinese."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[bool, bool]] = [(True, False)]  # shown, Chinese
        self.met: list[tuple[str, bool]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        given = dict(attrs)
        shown, chinese = self.open[-1]
        chinese = chinese or given.get("lang") == "zh-Hans"
        as_it_is = tag in AS_IT_IS or given.get("class") in NO_WORDS_OF_OURS
        drawn = tag in ("title", "desc") and not chinese  # stands beside its Chinese
        self.open.append((shown and not as_it_is and not drawn, chinese))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        shown, chinese = self.open[-1]
        if shown and data.strip():
            self.met.append((data.strip(), chinese))


_WORD = re.compile(r"[A-Za-z]{3,}")
_ENGLISH = re.compile(r"\b(?:a|and|are|at|by|from|has|in|is|of|on|that|the|this|to|with)\b")


def left_in_english(html: str, names: Iterable[str]) -> list[str]:
    """Return what a Chinese reader of a page would meet in English, save these names."""
    assert html.count("<desc>") == html.count('<desc lang="zh-Hans">')
    left = []
    for text, chinese in _Reading(html).met:
        bare = text
        for name in sorted(names, key=len, reverse=True):
            bare = bare.replace(name, "")
        if (_ENGLISH if chinese else _WORD).search(bare):
            left.append(text)
    return left


def squeezed(text: str) -> str:
    """Return a text without any space."""
    return re.sub(r"\s+", "", text)


def drawings(html: str) -> list[ElementTree.Element]:
    """Return the charts of a page in English, parsed as XML."""
    found = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    chinese = r'<(tspan class="zh"|title|desc) lang="zh-Hans">.*?</(tspan|title|desc)>'
    english = r'<tspan class="en">(.*?)</tspan>'
    read = [re.sub(english, r"\1", re.sub(chinese, "", drawing)) for drawing in found]
    return [ElementTree.fromstring(drawing) for drawing in read]
