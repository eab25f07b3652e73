"""The run page tells a run from its files, and tells a control from a student."""

import copy
import html
import re

import pytest

from distill.page import render_run
from tests.fakes import reports
from tests.fakes.pages import (
    HOSTILE,
    Page,
    assert_policy_allows_the_style_alone,
    assert_self_contained,
    drawings,
)


def draw(metrics=None, evaluation=None, manifest=None, title="a run"):
    return render_run(
        reports.metrics() if metrics is None else metrics,
        evaluation or reports.evaluation(),
        manifest or reports.manifest(),
        reports.CONFIG_YAML,
        title,
    )


@pytest.fixture(scope="module")
def page() -> str:
    return draw()


def prose(page: str) -> str:
    return " ".join(html.unescape(Page(page).text).split())


def test_the_page_is_self_contained(page):
    assert_self_contained(page)
    assert "http" not in page.replace("http-equiv", "")


def test_the_content_policy_allows_the_style_alone(page):
    assert_policy_allows_the_style_alone(page)


def test_the_same_run_gives_the_same_bytes(page):
    assert draw() == page


def test_every_number_of_the_evaluation_appears(page):
    shown = set(re.findall(r'<data value="([^"]*)"', page))
    evaluation = reports.evaluation()
    numbers = [v for k, v in evaluation["before"].items() if k not in ("tokens", "bytes")]
    numbers += evaluation["after"].values()
    numbers += [v for v in evaluation["teacher"].values() if not isinstance(v, str)]
    assert {repr(number) for number in numbers} <= shown


def test_materials_and_configuration_appear(page):
    text = prose(page)
    assert all(name in text for name in ("help-topics.txt", "prompts.jsonl", "torch 2.13.0"))
    assert "preset: tiny" in text
    assert page.count(reports.SHA) == 6


def test_the_page_has_curves_loads_and_a_time_split(page):
    titles = [drawing.findtext("title") for drawing in drawings(page)]
    assert titles == [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Heaviest expert over the mean, by layer",
        "Share of each expert over the last 20 steps",
        "Where the time went",
    ]
    assert "KL to the teacher: from" in drawings(page)[0].findtext("desc")


def test_a_control_says_that_it_had_no_signal_and_draws_no_kl():
    page = draw(metrics=reports.metrics(control=True), manifest=reports.manifest("control"))
    assert "No teacher signal was used in training" in prose(page)
    assert "Control run" in prose(page)
    assert "KL to the teacher" not in drawings(page)[0].findtext("desc")


def test_a_student_does_not_claim_to_lack_a_signal(page):
    assert "no teacher signal" not in prose(page).lower()


def test_a_student_without_experts_has_no_load_charts():
    rows = [{**row, "expert_load": []} for row in reports.metrics()]
    page = draw(metrics=rows)
    assert "The student has no expert layers." in prose(page)
    assert len(drawings(page)) == 5


def test_a_deep_student_has_three_load_lines_and_not_sixty():
    rows = [{**row, "expert_load": row["expert_load"] * 15} for row in reports.metrics(40)]
    page = draw(metrics=rows)
    assert "most uneven layer" in page
    assert len(page) < 200_000


def test_a_run_of_no_step_and_a_run_of_one_step_have_pages():
    assert_self_contained(draw(metrics=[]))
    assert_self_contained(draw(metrics=reports.metrics(1)))


def test_a_diverged_run_has_a_page():
    rows = reports.metrics()
    rows[-1] = {**rows[-1], "loss": float("nan"), "gradient_norm": float("inf")}
    page = draw(metrics=rows)
    assert "not finite" in prose(page)


def test_an_evaluation_without_a_number_says_so():
    evaluation = copy.deepcopy(reports.evaluation())
    evaluation["before"]["kl"] = None
    assert '<span class="absent">none</span>' in draw(evaluation=evaluation)


def test_hostile_text_is_shown_and_never_obeyed():
    evaluation, manifest = reports.evaluation(), reports.manifest()
    evaluation["samples"] = [
        {"id": HOSTILE, "prompt": HOSTILE, "teacher": HOSTILE, "student": HOSTILE}
    ]
    manifest["teacher"]["name"] = manifest["device"]["name"] = HOSTILE
    manifest["inputs"][0] = dict.fromkeys(("name", "kind", "sha256", "note"), HOSTILE)
    page = draw(evaluation=evaluation, manifest=manifest, title=HOSTILE)
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    assert "<script>alert(1)</script>" in prose(page)
    assert "\u27e8U+202E\u27e9" in prose(page)


def test_a_long_run_stays_under_two_megabytes():
    assert len(draw(metrics=reports.metrics(20_000)).encode()) < 2_000_000
