"""Every page of this project, and a real browser to open it in: Debian's chromium, headless."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

from audit.report import render, validation
from distill.papers.page import render_run
from tests.fakes import records, reports, validations

_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass(kw_only=True)
class Opened:
    """A page in a tab, and what the browser said of it."""

    tab: Tab
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class Reader:
    """Opens files as a reader does who got them by mail."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextmanager
    def opened(
        self,
        file: Path,
        *,
        width: int = 1280,
        theme: str = "light",
        language: str = "english",
        watched: bool = False,
    ) -> Iterator[Opened]:
        """Open a file at a width, in a theme and a language.

        Args:
            file: the page.
            width: of the window in CSS pixels.
            theme: light or dark, as the reader's system has it.
            language: english or chinese, by the page's own switch.
            watched: whether the test's own scripts may run, which the page's policy forbids.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            bypass_csp=watched,
        )
        tab = context.new_page()
        found = Opened(tab=tab)
        tab.on("request", lambda request: found.requests.append(request.url))
        tab.on("console", lambda message: found.messages.append(message.text))
        tab.on("pageerror", lambda error: found.messages.append(str(error)))
        tab.on("dialog", lambda dialog: found.messages.append(dialog.message))
        try:
            tab.goto(file.as_uri())
            if language == "chinese":
                tab.check("#chinese")
            yield found
        finally:
            context.close()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """A browser; where a person's machine has none, what needs it is skipped, but never in CI."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed; .ci/run installs it")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_QUIET))
        yield Reader(browser)
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three pages, each with all that it may hold."""
    out = tmp_path_factory.mktemp("pages")
    made = {
        "report": render.render(reports.report()),
        "run": render_run(
            records.metrics(own=True),
            records.full_evaluation(),
            records.full_manifest(),
            records.CONFIG_YAML,
            "a run",
        ),
        "validation": validation.render(validations.validation()),
    }
    for name, text in made.items():
        (out / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: out / f"{name}.html" for name in made}
