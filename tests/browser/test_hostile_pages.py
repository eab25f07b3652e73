"""Hostile strings in a real browser: nothing runs, nothing is fetched, nothing is drawn over."""

import pytest

from audit.report.render import render
from audit.report.reveal import reveal
from tests.fakes import hostile
from tests.fakes.pages import squeezed

pytestmark = pytest.mark.browser
ELEMENTS = "script, img, iframe, object, embed, form, video, template, link, base"
# The page's own controls, those of its language switch, are the only ones.
CONTROLS = "input:not([name=language]), button, textarea, select"


@pytest.mark.parametrize("texts", hostile.batches(), ids=range(len(hostile.batches())))
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_a_browser_runs_and_fetches_nothing_that_a_string_asks_for(
    reader, tmp_path, texts, language
):
    page = tmp_path / "report.html"
    page.write_text(render(hostile.report(texts)), encoding="utf-8")
    with reader.opened(page, language=language) as opened:
        assert opened.requests == [page.as_uri()] and opened.messages == []
        assert opened.tab.locator(f"{ELEMENTS}, {CONTROLS}").count() == 0
        assert opened.tab.locator("[style], [onclick], [onload], [onerror]").count() == 0
        read = squeezed(opened.tab.inner_text("body"))
    assert [text for text in texts if squeezed(reveal(text)) not in read] == []
