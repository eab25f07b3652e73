"""The model card of a run: what the student is, who taught it, what that obliges to, what it cost.

It is a function of `eval.json` and `manifest.json`, and repeats what was stated there about
teachers and their terms without judging it. Names in it are text, whatever they look like.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distill.papers import bill, wording
from distill.papers.comparison import alone, compared
from distill.papers.markdown import inline, link, table
from distill.terms import owed

# Below this many parameters a student is a demonstration, and its card says so.
_SMALL = 100_000_000
# Terms of the network itself, which are not what it learns from.
_INNER = ("balance", "indexer", "mtp")

_SPELT = {ord(mark): f"\\x{ord(mark):02X}" for mark in "<>&[]`"}

Record = Mapping[str, Any]


def model_card(evaluation: Record, manifest: Record) -> str:
    """Return the model card, README.md of the run directory."""
    run = manifest["run"]
    taught = run["role"] != "control"
    lines = [
        *_header(manifest, taught),
        f"# {run['role']}, seed {run['seed']}",
        "",
        _opening(manifest, taught),
        *([inline(wording.beginning(manifest))] if manifest["student"]["inherited"] else []),
        "",
        *_held_out(evaluation),
        *_against_the_teacher(evaluation),
        *_alone(evaluation),
        *(_teachers(manifest["teachers"]) if taught else []),
        *_cost(evaluation),
        f"What went in and came out is pinned in `manifest.json`, made by {manifest['tool']}.",
    ]
    if run["parameters"] < _SMALL:
        lines.append("A model of this size and training writes fragments, not facts.")
    return "\n".join([*lines, ""])


def _header(manifest: Record, taught: bool) -> list[str]:
    """Return the metadata that model hubs read.

    `base_model` is for first weights, which few students have from a teacher.
    """
    tags = ["distillation" if taught else "control", manifest["student"]["family"]]
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines.append(f"tags: [{', '.join([*tags, 'mixture-of-experts'])}]")
    if taught:
        names = [_quoted(teacher["name"]) for teacher in manifest["teachers"]]
        lines.append(f"distilled_from: [{', '.join(names)}]")
    if (cut := manifest["student"]["inherited"]) is not None:
        lines.append(f"base_model: {_quoted(cut['teacher'])}")
    return [*lines, "---"]


def _quoted(text: str) -> str:
    """Return text as YAML in ASCII: whatever is hidden or ends a block is spelt as an escape.

    So is what Markdown obeys, for a reader that takes the metadata for text.
    """
    quoted = str(yaml.safe_dump(text, default_style='"', width=math.inf)).strip()
    return quoted.translate(_SPELT)


def _opening(manifest: Record, taught: bool) -> str:
    run, student = manifest["run"], manifest["student"]
    losses = [r for r in manifest["losses"] if r["weight"] and r["kind"] not in _INNER]
    terms = wording.listed([f"{wording.term(r['name'])} ({r['weight']:g})" for r in losses])
    names = inline(wording.listed([teacher["name"] for teacher in manifest["teachers"]]))
    how = f"distilled from {names}" if taught else "trained without a teacher, as a control"
    texts = wording.listed([row["name"] for row in manifest["inputs"] if row["kind"] == "text"])
    return (
        f"A `{student['model_type']}` language model with {run['parameters']:,} parameters "
        f"({run['active_parameters']:,} active a token), {how}, on {run['tokens']:,} tokens of "
        f"{inline(texts)}. It learnt by {terms}, weights in brackets."
    )


def _held_out(evaluation: Record) -> list[str]:
    before, after = evaluation["before"], evaluation["after"]
    measures = [
        ("KL to the teacher, nats a token", "kl", ".3f"),
        ("top-1 agreement with the teacher", "top1_agreement", ".1%"),
        ("bits per byte", "bits_per_byte", ".3f"),
    ]
    rows = [
        (name, _number(before[key], form), _number(after[key], form))
        for name, key, form in measures
    ]
    return [*table(("held-out text", "before", "after"), rows), ""]


def _against_the_teacher(evaluation: Record) -> list[str]:
    rows = compared(evaluation.get("comparison", ()))
    if not rows:
        return []
    heads = ("on", "measure", "student", "teacher", "behind by", "the student is")
    return ["## How far behind the teacher", "", *table(heads, map(_difference, rows)), ""]


def _difference(row: Record) -> tuple[str, ...]:
    interval = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    sides = f"{row['student']:.3g}", f"{row['teacher']:.3g}", f"{row['behind']:.3g}{interval}"
    return inline(row["name"]), inline(row["measure"]), *sides, row["reading"]


def _alone(evaluation: Record) -> list[str]:
    rows = [
        (
            inline(row["name"]),
            inline(row["measure"]),
            f"{row['student']:.3g} [{row['low']:.3g}, {row['high']:.3g}]",
            f"{row['n']:,}",
        )
        for row in alone(evaluation.get("comparison", ()))
    ]
    if not rows:
        return []
    lines = table(("on", "measure", "student", "items"), rows)
    return ["## What no teacher was asked", "", *lines, ""]


def _teachers(teachers: Sequence[Record]) -> list[str]:
    lines = ["## Teachers", "", "As stated by whoever ran this; nothing here judges it.", ""]
    rows = []
    for teacher in teachers:
        terms = teacher["terms"]
        where = f"{link(terms['url'])}, read {terms['retrieved']}" if terms else ""
        stated = inline(teacher["name"]), inline(teacher["licence"]), wording.permission(teacher)
        rows.append([cell or "not stated" for cell in (*stated, where)])
    lines += table(("teacher", "licence", "training permitted", "terms"), rows)
    obligations = owed(teachers)
    if obligations:
        lines += ["", "What they oblige to:", ""]
        lines += [
            f"- {inline(text)} ({inline(wording.listed(names))})" for text, names in obligations
        ]
    return [*lines, ""]


def _cost(evaluation: Record) -> list[str]:
    if "bill" not in evaluation:
        return []
    said = bill.in_words(evaluation["bill"]).removeprefix("bill: ")
    return ["## Bill", "", f"{inline(said)}.", ""]


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
