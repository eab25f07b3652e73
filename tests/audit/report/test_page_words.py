"""Every word of the audit page and every sentence an audit writes has its Chinese."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from audit import evidence
from audit.config import AuditConfig
from audit.evidence import Report
from audit.probe import probe
from audit.report.languages import Catalogue
from audit.report.render import render
from tests.fakes import banks, lineups
from tests.fakes.pages import Page, said_by
from tests.fakes.runs import Runs

TEMPLATES = ("frame.html.j2", "parts.html.j2", "findings.html.j2", "page.html.j2")
# The same in both languages, and a form whose number is filled in before it is looked up.
NEUTRAL = {"p", "n", "SHA-256", "", "before: {:.0f} %"}
WORDS = Catalogue.load(("audit.report",))


def own_words(template: str) -> set[str]:
    """Return what a template itself says, in whichever way it says it."""
    return said_by(files("audit.report").joinpath(template).read_text(encoding="utf-8"))


def shipped(table: str) -> set[str]:
    text = files("audit.report").joinpath("zh", table).read_text(encoding="utf-8")
    return set(tomllib.loads(text))


def same(words: str) -> str:
    """Return words without what a place in a sentence changes: a capital, a mark at the end."""
    return (words[:1].lower() + words[1:]).rstrip(" .;:?!")


@pytest.mark.parametrize("template", TEMPLATES)
def test_all_that_a_template_says_has_its_chinese(template):
    said = own_words(template) - NEUTRAL
    assert said
    assert [one for one in said if WORDS.in_chinese(one) is None] == []


def test_no_entry_of_the_pages_words_is_left_over():
    said = {same(one) for template in TEMPLATES for one in own_words(template)}
    assert [one for one in shipped("page.toml") if same(one) not in said] == []


def test_templates_print_no_english_but_what_they_say():
    # Text between tags, with Jinja's blocks taken out: marks, numbers, commands and names alone.
    for template in TEMPLATES:
        source = files("audit.report").joinpath(template).read_text(encoding="utf-8")
        bare = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<code>.*?</code>", " ", source, flags=re.S)
        bare = re.sub(r"<style>.*?</style>|<pre.*?</pre>", " ", bare, flags=re.S)
        left = set(re.findall(r"[A-Za-z]{3,}", re.sub(r"<[^<>]*>", " ", bare)))
        assert left <= {"SHA", "log", "DOCTYPE", "doctype", "html", "Language", "English"}, template


# What an audit writes: literals of these modules, save what errors and progress say.
WRITERS = (
    "verdict.py", "probe.py", "bank_probe.py", "bank_findings.py", "matching.py", "parties.py",
    "lineup/ruling.py", "lineup/case.py", "probes/contrast.py", "probes/logprob_shift.py",
    "probes/permuted.py", "probes/attribution.py", "probes/self_identity.py", "report/render.py",
    "report/ladder.py", "report/sensitivity.py",
)  # fmt: skip
# Beginnings that are put together with what has an entry as a whole, and what is in no report.
PARTS = {
    "known pairs that would be SUPPORTED with these prompts and references: ",
    "named on the command line",
    "not in pairs.csv",
    "no ratio is known",
    "7: this audit misses known students, so that nothing found says little.",
    "it begins its answers as the group does, but further on the likeness is not seen; the first "
    "words alone need a likelihood ratio of 7, and 7",
    "with 7 no p-value can be below 7",
    "it gains more than every control, but perhaps only 7 7, within the margin of 7 set for "
    "differences between runs",
    "suspect gains 7 7 more than the controls here",
    "1 reference model",
    "training order",
}


def literals(path: str) -> set[str]:
    """Return the texts in a module that are neither docstrings nor said to a terminal."""
    tree = ast.parse(files("audit").joinpath(path).read_text(encoding="utf-8"))
    passed: set[ast.AST] = set()
    for node in ast.walk(tree):
        spoken = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if isinstance(node, ast.Raise | ast.Assert | ast.Expr) or (
            spoken and node.func.id in ("say", "progress", "tick", "InputError", "ConfigError")
        ):
            passed |= set(ast.walk(node))
        if isinstance(node, ast.JoinedStr):
            passed |= set(ast.walk(node)) - {node}
        if isinstance(node, ast.AnnAssign):
            passed |= set(ast.walk(node.annotation))
    found = set()
    for node in ast.walk(tree):
        if node in passed:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "7" for p in node.values)
            found.add("".join(map(str, parts)))
    return found


@pytest.mark.parametrize("path", WRITERS)
def test_every_sentence_that_an_audit_can_write_has_its_chinese(path):
    sentences = {
        one for one in literals(path) if " " in one and len(re.findall("[a-z]{2,}", one)) >= 3
    } - PARTS
    missing = [one for one in sentences if not chinese_alone(one.strip())]
    assert missing == []


def chinese_alone(english: str) -> bool:
    """Tell whether a sentence has a translation in which no English prose is left."""
    said = WORDS.chinese(english)
    return said is not None and not re.search(r"[a-z]+ [a-z]+ [a-z]+", said)


# Fields of a report in the audit's own words; names, prompts, answers and settings are data.
WRITTEN = {
    "propositions", "reason", "relation", "null", "unit", "cannot_say", "would_need", "test",
    "role", "description", "matched", "unmatched", "note", "kind", "limits", "verdict", "probe",
}  # fmt: skip
DATA = {
    "schema", "tool", "created", "name", "sha256", "reference", "inherits", "greetings", "settings",
    "suspect", "teacher", "group", "needs", "against", "id", "prompt", "answers", "command",
    "packages", "side",
}  # fmt: skip


def texts(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a report with the name of its field."""
    if isinstance(value, dict) and field not in ("settings", "packages", "answers"):
        for name, part in value.items():
            yield from texts(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part, field)
    elif isinstance(value, str) and value:
        yield field, value


def assert_translated(report: Report) -> None:
    """Fail unless all that the audit wrote is in Chinese where the page is."""
    found = set(texts(evidence.to_json(report)))
    assert {field for field, _ in found} <= WRITTEN | DATA
    written = {text for field, text in found if field in WRITTEN}
    assert [text for text in written if not chinese_alone(text)] == []
    shown = " ".join(Page(render(report), "zh").text.split())
    assert [text for text in written if len(text.split()) > 3 and text in shown] == []


def audited(out: Path, **settings: object) -> Report:
    return probe(
        AuditConfig(**settings),
        out,
        command="audit probe",
        say=lambda sentence: None,
        progress=lambda *told: None,
    ).report


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a bank, and answers of a pupil, of a stranger and of others."""
    place = tmp_path_factory.mktemp("answers")
    people = [
        *lineups.teachers(3),
        *lineups.unrelated(8),
        *lineups.unrelated(4, "control"),
        *[lineups.student(f"s{n}", n % 3) for n in range(3)],
    ]
    lineups.write(place / "bank", people)
    outside = [lineups.student("pupil", 2, 0.7), lineups.Someone(name="stranger")]
    for someone in (*outside, *people):
        said = {f"q{n}": lineups.answer(someone, n, 0) for n in range(60)}
        banks.answers_file(place / f"{someone.name}.jsonl", said)
    return place


def test_an_audit_against_a_bank_is_told_in_chinese(answers, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = audited(
        tmp_path / "out", suspect=str(answers / "pupil.jsonl"), bank=str(answers / "bank")
    )
    assert len(report.findings) == 3
    assert_translated(report)


@pytest.mark.parametrize("references", [2, 19])
def test_an_audit_of_answers_is_told_in_chinese(answers, tmp_path, references):
    others = sorted(answers.glob("*.jsonl"))[:references]
    report = audited(
        tmp_path / "out",
        suspect=str(answers / "pupil.jsonl"),
        teachers={"t": str(answers / "stranger.jsonl")},
        reference_models={path.stem: str(path) for path in others if path.stem != "pupil"},
    )
    assert_translated(report)


@pytest.mark.slow
def test_an_audit_of_weights_is_told_in_chinese(runs: Runs, tmp_path):
    report = audited(
        tmp_path / "out",
        suspect=str(runs.student),
        teachers={"tiny": str(runs.teacher)},
        controls={name: str(path) for name, path in runs.controls.items()},
        max_tokens=8,
        device="cpu",
    )
    assert {one.probe for one in report.findings[0].probes} == {"logprob_shift", "contrast"}
    assert_translated(report)


def test_every_text_of_the_schema_is_known_as_words_or_as_data():
    kinds = [one for one in vars(evidence).values() if dataclasses.is_dataclass(one)]
    named = {
        field.name
        for kind in kinds
        for field in dataclasses.fields(kind)
        if re.search(r"\bstr\b|Literal|Verdict", str(field.type))
    }
    assert named == WRITTEN | DATA
