"""What suspects, servers and file names hold is data everywhere: shown in full, never obeyed."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from audit.evidence import Exhibit, from_json, to_json
from audit.lineup.ruling import Ruling
from audit.report.frame import MOST_BYTES
from audit.report.render import render
from audit.report.reveal import reveal, reveal_line
from audit.report.validation import render as render_validation
from audit.validate import COLUMNS, table
from distill.papers.card import model_card
from distill.papers.page import render_run
from tests.fakes import hostile, records, reports, validations
from tests.fakes.commands import call
from tests.fakes.pages import (
    HIDDEN,
    Page,
    assert_policy_allows_the_style_alone,
    assert_self_contained,
    squeezed,
)

STRINGS = hostile.strings()
batches = pytest.mark.parametrize("texts", hostile.batches(), ids=range(len(hostile.batches())))


def missing_from(page: str, texts: list[str]) -> list[str]:
    """Return those of the texts that a reader of one of the languages does not find on the page."""
    read = [squeezed(Page(page, language).text) for language in ("en", "zh")]
    return [text for text in texts if not all(squeezed(reveal(text)) in one for one in read)]


def test_there_are_more_than_five_hundred_different_strings():
    assert len(set(STRINGS)) == len(STRINGS) > 500
    assert all(hostile.MARK in text for text in STRINGS)


@batches
def test_an_audits_page_shows_every_string_and_obeys_none(texts):
    page = render(hostile.report(texts))
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)
    assert missing_from(page, texts) == []


@batches
def test_a_runs_page_shows_every_string_and_obeys_none(texts):
    manifest, evaluation = records.full_manifest(), records.full_evaluation()
    row = manifest["inputs"][0]
    manifest["inputs"] += [{**row, "name": text, "kind": text, "note": text} for text in texts]
    manifest["teachers"] += [records.teacher(text, licence=text) for text in texts[:5]]
    sample = evaluation["samples"][0]
    evaluation["samples"] += [
        {**sample, "prompt": text, "student": text, "teachers": {text: text}} for text in texts[:9]
    ]
    page = render_run(records.metrics(), evaluation, manifest, texts[9], texts[10])
    page.encode()
    assert_self_contained(page)
    assert missing_from(page, texts) == []


@batches
def test_a_validations_page_obeys_none(texts):
    page = render_validation(validation_of(texts))
    page.encode()
    assert_self_contained(page)
    assert_policy_allows_the_style_alone(page)


def validation_of(texts: list[str]):
    rows = validations.population(models=8, groups=2)
    named = [
        validations.with_ruling(one, suspect=texts[at % len(texts)], group=texts[-1 - at % 5])
        for at, one in enumerate(rows)
    ]
    return validations.validation(named, bank=texts[0])


@batches
def test_a_table_has_every_name_and_no_formula(texts):
    made = validation_of(texts)
    # Lone surrogates cannot be written as UTF-8, and no bank can hold them.
    rows = list(csv.reader(io.StringIO(table(made), newline="")))
    assert tuple(rows[0]) == tuple(COLUMNS)
    rulings: list[Ruling] = [one.ruling for one in made.judged]
    for row, ruling in zip(rows[1:], rulings, strict=True):
        for cell, name in zip(row[:2], (ruling.suspect, ruling.group), strict=True):
            assert cell.removeprefix("'") == name.removeprefix("'")
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@batches
def test_a_report_keeps_every_string_through_its_file(texts):
    report = hostile.report([re.sub("[\ud800-\udfff]", "?", text) for text in texts])
    assert from_json(json.loads(json.dumps(to_json(report)))) == report


@pytest.mark.parametrize("text", STRINGS)
def test_a_line_for_a_terminal_is_reveal_line_that_hides_nothing(text):
    line = reveal_line(text)
    assert "\n" not in line and not HIDDEN.search(line)
    assert hostile.MARK in line
    line.encode()


def test_a_command_prints_hostile_names_as_lines_of_its_own(tmp_path):
    # What no argument can hold: NUL, half a character; and a name ends at the first "=".
    names = [t for t in STRINGS if not re.search("[\ud800-\udfff\x00=]", t) and len(t) < 200]
    suspect = answers_file(tmp_path / "suspect.jsonl")
    for number, name in enumerate(names[::14]):
        file = answers_file(tmp_path / f"teacher-{number}.jsonl")
        arguments = ["--suspect", suspect, "--teacher", f"{name}={file}"]
        result = call("audit", "probe", *arguments, "--out", tmp_path / "out", "-s", "seed=1")
        said = result.stdout + result.stderr
        assert not HIDDEN.search(said), name
        assert hostile.MARK in said
        lines = [line for line in result.stdout.splitlines() if line]
        assert [line.split(":")[0].split(" / ")[0] for line in lines] == ["suspect", "page"]


@pytest.mark.parametrize("character", ["\x1b", "\n", "\u202e", "\r", "\x9b"])
def test_a_file_name_cannot_speak_for_the_command(tmp_path, character):
    name = f"none{character}page: elsewhere.html"
    result = call("audit", "probe", "--suspect", tmp_path / name, "--teacher", "T=t.jsonl")
    assert result.exit_code == 2
    assert not HIDDEN.search(result.stderr) and len(result.stderr.splitlines()) == 1
    assert f"\u27e8U+{ord(character):04X}\u27e9" in result.stderr


def answers_file(path: Path) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"q {i}", "response": f"copper w{i}"} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@batches
def test_a_model_card_has_every_name_as_text(texts):
    names = [text for text in texts if not re.search("[\ud800-\udfff]", text)]
    manifest = records.full_manifest()
    manifest["teachers"] = [records.teacher(name, licence=name) for name in names]
    card = model_card(records.full_evaluation(), manifest)
    head = card.split("\n---\n", 1)[0].removeprefix("---\n")
    assert yaml.safe_load(head)["distilled_from"] == names
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    tags = {tag for tag, _ in Page(body).elements}
    assert tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td",
                    "code", "a", "em", "strong", "hr"}  # fmt: skip
    links = [attributes["href"] for tag, attributes in Page(body).elements if tag == "a"]
    assert all(link.startswith(("https://", "http://")) for link in links)
    assert "example.invalid" not in " ".join(links)


def test_ten_megabytes_on_one_line_are_cut_and_counted():
    line = "x" * 10_000_000 + hostile.MARK
    page = render(reports.report(findings=(hostile.finding("T", long_probe(line)),)))
    assert len(page.encode()) <= MOST_BYTES
    assert "more characters in the JSON file" in page


def long_probe(text: str):
    exhibit = Exhibit(id="p1", prompt=text, answers={"suspect": text, "T": text}, note="")
    return dataclasses.replace(reports.probe(), exhibits=(exhibit,))
