"""The page of a run says its own words, and what its records say, in Chinese too."""

import html
import re
import tomllib
from importlib.resources import files

import pytest

from audit.report.languages import Catalogue
from distill.lessons.tally import Tally
from distill.papers import cost, page, wording, work
from distill.papers.bill import bill
from distill.papers.page import render_run
from distill.prices import Asked, Prices
from student.catalogue import presets
from tests.fakes import records
from tests.fakes.pages import left_in_english, said_by

WORDS = Catalogue.load(("audit.report", "distill.papers"))
TEMPLATE = files("distill.papers").joinpath("run.html.j2").read_text(encoding="utf-8")
# Names of the fixtures and of things that have no other: they are the same in every language.
NAMES = (
    "teacher-a", "teacher-b", "example/teacher-b-2026-10", "help-topics.txt", "prompts.jsonl",
    "tokenizer.json", "help topics", "held-out help topics", "arithmetic", "spelling", "riddles",
    "own answers", "given text", "sums", "x86_64, two cores", "The Example Works", "prompts, code",
    "section 3 of the terms", "https://example.org/terms", "Name the teacher in the model card.",
    "Show a notice where it is served.", "PSF licence", "A test.", "a.txt, b.txt", "student",
    "spiritsafe.run/2", "spiritsafe 0.1.0", "torch 2.13.0+cpu", "float32", "FLOP", "EUR", "SHA-256",
    "'!' and 'the'", "bos:", "pad", "none,", "min", "devices", "device_hour", "written", "cpu",
    "seconds_2", "seconds_3", "Distillation run", "Linux x86_64", "Python", "torch",
)  # fmt: skip
FULL = {
    "metrics": records.metrics(own=True),
    "evaluation": records.full_evaluation(),
    "manifest": records.full_manifest(),
}


def draw(**changes) -> str:
    given = {**FULL, **changes}
    return render_run(**given, config_yaml=records.CONFIG_YAML, title="Distillation run")


def unlike() -> dict:
    """Return an evaluation of which little is known, and whose runs differ."""
    evaluation = records.full_evaluation()
    for side in ("before", "after"):
        evaluation[side] |= {"kl": None, "reverse_kl": None, "top1_agreement": None}
    evaluation["before"] |= {"bits_per_byte": None}
    evaluation["comparison"][0] |= {"low": None, "high": None}
    evaluation["held_out"][1] |= {
        "tokens": [0, 50_000, 100_000, 150_000, 200_000],
        "text": "9 tokens",
        "reverse_kl": [2, 1, 1, 1, 1],
        "top1_agreement": [0.1, 0.2, 0.3, 0.4, 0.5],
        "bits_per_byte": [3, 2, 1, 1, 1],
        "accuracy: sums": [0, 0, 0, 0, 0.5],
    }
    evaluation["served"][0] |= {"checks": [], "agreement": None}
    evaluation["samples"] = []
    return evaluation


def inherited(**cut) -> dict:
    manifest = records.full_manifest()
    given = {"teacher": "teacher-a", "cache": 0.5, "experts": None, "depth": 1.0, **cut}
    manifest["student"]["inherited"] = given
    manifest["device"]["threads"] = 1
    return manifest


def fast() -> list[dict]:
    """Return steps of a large student with small losses, whose axes have a power of ten."""
    rows = [{**row, "tokens_per_second": 2e6} for row in records.metrics(9, own=True)]
    for row in rows:
        row["terms"] = {name: -value / 1e4 for name, value in row["terms"].items()}
        row["loss"] = -row["loss"] / 1e4
        row["expert_load"] = row["expert_load"] * 5
    return rows


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """Return pages of runs of every kind that have, together, everything to say."""
    control = {"metrics": records.metrics(control=True), "manifest": records.manifest("control")}
    bare = [{**row, "expert_load": [], "seconds_by_stage": None} for row in records.metrics(3)]
    one_obligation = records.manifest()
    one_obligation["teachers"][0]["obligations"] = ["Show a notice where it is served."]
    writer = inherited()
    writer["teachers"][0]["weight"] = 0.0
    writer["teachers"][1]["terms"]["basis"] = ""
    return [
        draw(),
        draw(**control, evaluation=records.evaluation()),
        draw(manifest={**inherited(), "inputs": [], "outputs": []}, evaluation=unlike()),
        draw(manifest=writer, metrics=fast()),
        draw(manifest=one_obligation, metrics=bare),
        draw(manifest=records.manifest(), metrics=[]),
    ]


def test_every_word_of_the_template_has_its_chinese():
    assert not [said for said in said_by(TEMPLATE) if WORDS.in_chinese(said) is None]


def test_every_heading_and_measure_has_its_chinese():
    names = [name for _, name in page.SECTIONS] + [name for _, name in page.ALL_MEASURES]
    names += [word for measure in page.MEASURES for word in measure[1:]]
    assert not [name for name in names if WORDS.chinese(name) is None]


def test_no_page_leaves_its_reader_with_english(pages):
    for drawn in pages:
        assert left_in_english(drawn, NAMES) == []


def test_no_entry_of_the_page_is_idle(pages):
    said, shown = said_by(TEMPLATE), "".join(pages)
    entries = tomllib.loads(files("distill.papers").joinpath("zh", "run.toml").read_text("utf-8"))
    idle = [
        english
        for english, chinese in entries.items()
        if english not in said
        and not all(part in shown for part in re.split(r"\{\w+\}", chinese.rstrip("。")))
    ]
    assert idle == []


def every_line() -> list[dict]:
    """Return the lines of a bill with every kind of pass, stage and price that there is."""
    student = presets()["tiny"]
    shapes = {"model.layers.0.mlp.weight": (8, 8), "model.experts.weight": (2, 8)}
    doings = ("routing ahead", "writing", "evaluating", "answering tasks")
    spoken = ("forward", "its head over kept states", "on the student's answers")
    passes = [
        work.student_training(
            student, 320, sequence_tokens=1_024, tokens=9, text=text, recompute=bool(text)
        )
        for text in ("", " on its own answers", " on a server's answers")
    ]
    passes += [
        work.student_forward(
            student, 320, sequence_tokens=1_024, positions=9, applied=9, doing=doing
        )
        for doing in doings
    ]
    passes += [
        work.teacher_forward("Far", shapes, {}, sequence_tokens=9, tokens=9, doing=doing)
        for doing in (*spoken, "writing answers", "answering tasks")
    ]
    passes += [work.served("Far", 9), cost._untold("Far", "on the student's answers")]
    passes.append(cost._unused(cost._Read(text=0, rows=1, own=1, answers=1, unused=2_000)))
    tokens = ("trained on", "captured", "read as prompts", "generated", "evaluated")
    return bill(
        tokens=dict.fromkeys((*tokens, "read by Far", "written by Far"), 9),
        work=passes,
        seconds=records.evaluation()["seconds"],
        prices=Prices(currency="EUR", kilowatt_hour=0.3),
        asked=[Asked(teacher="Far", read=9, written=9)],
    )["lines"]


def test_every_line_of_a_bill_is_told():
    for line in every_line():
        for said in (line["name"], line["source"], line["unknown"], *line["without"]):
            chinese = WORDS.chinese(said) if said else ""
            assert chinese is not None, said
            assert "Far" in chinese or "Far" not in said
            assert not re.search(r"\b(?:the|of|its|as|a)\b", chinese), chinese


@pytest.mark.parametrize("experts", [None, {"shared": 1, "active": 3, "routed": 15}])
@pytest.mark.parametrize("depth", [1.0, 0.5])
def test_first_weights_are_told_whatever_was_cut(experts, depth):
    said = wording.beginning(inherited(experts=experts, depth=depth))
    chinese = WORDS.chinese(said)
    assert chinese is not None and "teacher-a" in chinese
    assert re.findall(r"\d+%", chinese) == re.findall(r"\d+%", said)


@pytest.mark.parametrize("head_dim", [None, 512])
@pytest.mark.parametrize("entries", [None, {"tokens": 4, "gate": "attended"}])
@pytest.mark.parametrize("depth", [1.0, 0.5])
def test_first_weights_in_v4_are_told_whatever_was_cut(head_dim, entries, depth):
    manifest = inherited(
        head_dim=head_dim,
        sliding_window=entries and 128,
        entries=entries,
        depth=depth,
        experts={"shared": 1, "active": 1, "routed": 3},
    )
    del manifest["student"]["inherited"]["cache"]
    said = wording.beginning(manifest)
    chinese = WORDS.chinese(said)
    assert chinese is not None and "teacher-a" in chinese
    assert not re.search(r"\b(?:the|of|its|as|it)\b", chinese, re.IGNORECASE), chinese
    assert re.findall(r"\d+%?", chinese) == re.findall(r"\d+%?", said)


def test_what_became_of_answers_is_told():
    tally = Tally(sha256="", asked=1_056, kept=40, rejected=9, spare=4, dropped=2, cut=1)
    assert WORDS.chinese(tally.in_words()) == (
        "1,056 个回答：保留 40、剔除 9、备用 4、窗口放不下 2、被截断 1"
    )


def figures(text: str) -> list[str]:
    return sorted(re.findall(r"(?<![\w-])\d(?:[\d,.]*\d)?", text))


def test_numbers_are_the_same_in_both_languages(pages):
    both = r'<span class="en">([^<]*)</span><span class="zh" lang="zh-Hans">([^<]*)</span>'
    for english, chinese in re.findall(both, html.unescape(pages[0])):
        assert figures(english) == figures(chinese), english
