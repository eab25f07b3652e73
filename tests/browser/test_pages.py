"""Each page, opened in a real browser: accessible, silent, narrow or wide, in both languages."""

import io
import re
import unicodedata

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page as Tab
from pypdf import PdfReader

pytestmark = pytest.mark.browser
PAGES = ("report", "run", "validation")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
WIDTHS = (1280, 390)

every_page = pytest.mark.parametrize("name", PAGES)
in_both_languages = pytest.mark.parametrize("language", ["english", "chinese"])
in_both_themes = pytest.mark.parametrize("theme", ["light", "dark"])
at_each_width = pytest.mark.parametrize("width", WIDTHS)


@every_page
@in_both_languages
@in_both_themes
@at_each_width
def test_nothing_stands_in_the_way_of_any_reader(reader, pages, name, language, theme, width):
    view = {"language": language, "theme": theme, "width": width}
    with reader.opened(pages[name], watched=True, **view) as opened:
        opened.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found = Axe().run(opened.tab, options={"runOnly": {"type": "tag", "values": RULES}})
    assert found.response["passes"]  # rules were applied at all
    assert found.response["violations"] == []


@every_page
@in_both_languages
@in_both_themes
@at_each_width
def test_a_page_asks_for_nothing_but_itself_and_the_browser_has_nothing_to_say(
    reader, pages, name, language, theme, width
):
    view = {"language": language, "theme": theme, "width": width}
    with reader.opened(pages[name], **view) as opened:
        assert opened.requests == [pages[name].as_uri()]
        assert opened.messages == []


@every_page
@in_both_languages
@at_each_width
def test_nothing_runs_out_of_the_window(reader, pages, name, language, width):
    with reader.opened(pages[name], language=language, width=width, watched=True) as opened:
        opened.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = opened.tab.evaluate(
            """() => [...document.querySelectorAll('body *')]
                .filter(e => !e.closest('.skip, .hidden, svg, thead, fieldset'))
                .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
                .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert opened.tab.evaluate("document.scrollingElement.scrollWidth") <= width
    assert wide == []


@every_page
def test_the_switch_shows_one_language_at_a_time(reader, pages, name):
    shown = """c => [...document.querySelectorAll(c)].filter(e => e.checkVisibility()).length"""
    with reader.opened(pages[name], watched=True) as opened:
        assert opened.tab.evaluate(shown, ".en") > 50
        assert opened.tab.evaluate(shown, ".zh") == 0
        opened.tab.check("#chinese")
        assert opened.tab.evaluate(shown, ".en") == 0
        assert opened.tab.evaluate(shown, ".zh") > 50
        headings = opened.tab.locator("h2").all_inner_texts()
        assert [text for text in headings if not re.search(r"[\u4e00-\u9fff]", text)] == []


@every_page
def test_every_number_is_the_same_in_both_languages(reader, pages, name):
    with reader.opened(pages[name]) as opened:
        english = _figures(opened.tab)
        opened.tab.check("#chinese")
        assert _figures(opened.tab) == english


def _figures(tab: Tab) -> list[str]:
    """Return the figures that a reader sees, those for machines too, in no order."""
    script = """() => [...document.querySelectorAll('data')].filter(e => e.checkVisibility())
        .map(e => e.value + ' ' + e.textContent)"""
    return sorted(tab.evaluate(script))


@every_page
def test_the_keyboard_alone_reaches_everything(reader, pages, name):
    with reader.opened(pages[name], watched=True) as opened:
        tab = opened.tab
        wanted = tab.evaluate(
            "[...document.querySelectorAll('a[href], summary, input')]"
            ".filter(e => e.checkVisibility() && !e.matches('input:not(:checked)')).length"
        )
        reached, places = 0, set()
        for _ in range(wanted + 5):
            tab.keyboard.press("Tab")
            place = tab.evaluate(
                """() => {
                    const e = document.activeElement;
                    if (e === document.body) return null;
                    return [...document.querySelectorAll('*')].indexOf(e) + ' ' +
                        getComputedStyle(e).outlineStyle;
                }"""
            )
            if place is None:
                break
            reached += 1
            places.add(place)
        assert len(places) == reached == wanted
        assert all(place.endswith("solid") for place in places)  # where one is, is seen


@every_page
def test_the_keyboard_alone_switches_the_language_and_opens_what_is_closed(reader, pages, name):
    with reader.opened(pages[name], watched=True) as opened:
        tab = opened.tab
        tab.focus("#english")
        tab.keyboard.press("ArrowRight")
        assert tab.is_checked("#chinese")
        closed = tab.locator("details:not([open]) > summary:visible").first
        if closed.count():
            count = tab.locator("details[open]").count()
            closed.focus()
            tab.keyboard.press("Enter")
            assert tab.locator("details[open]").count() == count + 1


@every_page
@in_both_languages
@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_print_keeps_every_table_and_figure(reader, pages, name, language, paper):
    with reader.opened(pages[name], language=language, watched=True) as opened:
        opened.tab.emulate_media(media="print")
        script = """c => [...document.querySelectorAll(c)].map(e => {
            const c = e.cloneNode(true), other = document.querySelector('#chinese').checked
                ? '.en' : '.zh';
            c.querySelectorAll(other).forEach(o => o.remove());
            return c.textContent;
        })"""
        captions = opened.tab.evaluate(script, "caption, figcaption")
        marks = opened.tab.evaluate(script, ".chart text.label, .chart text.tick")
        printed = _squeezed(_pdf(opened.tab, paper))
    assert captions and marks
    assert [text for text in captions if not _is_in(text, printed)] == []
    assert [text for text in marks if not _is_in(text, printed)] == []


def _pdf(tab: Tab, paper: str) -> str:
    """Return what is printed, without the numbers at the foot of each page."""
    pdf = PdfReader(io.BytesIO(tab.pdf(format=paper, print_background=True)))
    return "".join(re.sub(r"\d+ / \d+\s*$", "", page.extract_text()) for page in pdf.pages)


def _is_in(text: str, printed: str) -> bool:
    """Tell whether a text was printed; a printer may take a radical's glyph for a character."""
    wanted = _squeezed(text)
    chinese = "".join(
        f"[{one}\u2e80-\u2eff]" if one > "\u2eff" else re.escape(one) for one in wanted
    )
    return wanted in printed or re.search(chinese, printed) is not None


def _squeezed(text: str) -> str:
    """Return a text without what a printer may break, space, or draw as one letter."""
    return re.sub(r"[\s\u00ad-]+", "", unicodedata.normalize("NFKC", text))
