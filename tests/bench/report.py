"""How large the page of a large audit is, and how long it takes to draw and to open.

    python tests/bench/report.py --json PATH [--teachers 12] [--references 200] [--prompts 400]

Two probes a teacher, each with every reference on its axis, every prompt and six exhibits of two
long texts. CPU-seconds of drawing the page; wall-clock seconds, median of several, from asking a
fresh tab of headless chromium for the file to its `load` event and the first frame after it.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Python looks beside a script first, and there `audit` is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from audit.evidence import Report
from audit.report.render import render
from tests.fakes import reports

REPEATS = 5


def large(teachers: int, references: int, prompts: int) -> Report:
    """Return a report in which every probe has so many references and prompts."""
    probes = tuple(
        reports.probe(name=f"probe {at}", prompts=prompts, references=references, exhibits=6)
        for at in range(2)
    )
    findings = tuple(reports.finding(teacher=f"t{at}", probes=probes) for at in range(teachers))
    return reports.report(findings=findings)


def open_seconds(page: Path) -> list[float]:
    """Return how long a tab takes to show the page, once for each repeat."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(REPEATS):
            context = browser.new_context(bypass_csp=True)  # so that a frame can be waited for
            tab = context.new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate("() => new Promise(done => requestAnimationFrame(() => done()))")
            found.append(time.perf_counter() - began)
            context.close()
        browser.close()
    return found


def main() -> None:
    """Measure, and write flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--teachers", type=int, default=12)
    parser.add_argument("--references", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=400)
    given = parser.parse_args()
    report = large(given.teachers, given.references, given.prompts)
    began = time.process_time()
    page = render(report)
    figures = {
        "render_cpu_seconds": round(time.process_time() - began, 3),
        "page_bytes": len(page.encode()),
    }
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "report.html"
        file.write_text(page, encoding="utf-8")
        figures["open_seconds"] = round(statistics.median(open_seconds(file)), 3)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
