"""The model card of a run: what the student is, who taught it, what that obliges to, what it cost.

It is a function of `eval.json` and `manifest.json`, and repeats what was stated there about
teachers and their terms without judging it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.papers import bill, wording
from distill.papers.comparison import alone, compared
from distill.terms import owed

# Below this many parameters a student is a demonstration, and its card says so.
_SMALL = 100_000_000
# Terms of the network itself, which are not what it learns from.
_INNER = ("balance", "indexer", "mtp")

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
        *([wording.beginning(manifest)] if manifest["student"]["inherited"] else []),
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
        names = [teacher["name"] for teacher in manifest["teachers"]]
        lines.append(f"distilled_from: {json.dumps(names)}")
    if (cut := manifest["student"]["inherited"]) is not None:
        lines.append(f"base_model: {json.dumps(cut['teacher'])}")
    return [*lines, "---"]


def _opening(manifest: Record, taught: bool) -> str:
    run, student = manifest["run"], manifest["student"]
    losses = [r for r in manifest["losses"] if r["weight"] and r["kind"] not in _INNER]
    terms = wording.listed([f"{wording.term(r['name'])} ({r['weight']:g})" for r in losses])
    names = wording.listed([teacher["name"] for teacher in manifest["teachers"]])
    how = f"distilled from {names}" if taught else "trained without a teacher, as a control"
    text = wording.listed([row["name"] for row in manifest["inputs"] if row["kind"] == "text"])
    return (
        f"A `{student['model_type']}` language model with {run['parameters']:,} parameters "
        f"({run['active_parameters']:,} active a token), {how}, on {run['tokens']:,} tokens of "
        f"{text}. It learnt by {terms}, weights in brackets."
    )


def _held_out(evaluation: Record) -> list[str]:
    before, after = evaluation["before"], evaluation["after"]
    rows = [
        ("KL to the teacher, nats a token", "kl", ".3f"),
        ("top-1 agreement with the teacher", "top1_agreement", ".1%"),
        ("bits per byte", "bits_per_byte", ".3f"),
    ]
    lines = [
        f"| {name} | {_number(before[key], form)} | {_number(after[key], form)} |"
        for name, key, form in rows
    ]
    return ["| held-out text | before | after |", "|---|---|---|", *lines, ""]


def _against_the_teacher(evaluation: Record) -> list[str]:
    rows = compared(evaluation.get("comparison", ()))
    if not rows:
        return []
    lines = ["| on | measure | student | teacher | behind by | the student is |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        interval = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
        sides = f"{row['student']:.3g} | {row['teacher']:.3g} | {row['behind']:.3g}{interval}"
        lines.append(f"| {_cell(row['name'])} | {row['measure']} | {sides} | {row['reading']} |")
    return ["## How far behind the teacher", "", *lines, ""]


def _alone(evaluation: Record) -> list[str]:
    rows = alone(evaluation.get("comparison", ()))
    if not rows:
        return []
    lines = ["| on | measure | student | items |", "|---|---|---|---|"]
    for row in rows:
        share = f"{row['student']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        lines.append(f"| {_cell(row['name'])} | {row['measure']} | {share} | {row['n']:,} |")
    return ["## What no teacher was asked", "", *lines, ""]


def _teachers(teachers: Sequence[Record]) -> list[str]:
    lines = ["## Teachers", "", "As stated by whoever ran this; nothing here judges it.", ""]
    lines += ["| teacher | licence | training permitted | terms |", "|---|---|---|---|"]
    for teacher in teachers:
        terms = teacher["terms"]
        where = f"{terms['url']}, read {terms['retrieved']}" if terms else ""
        cells = teacher["name"], teacher["licence"], wording.permission(teacher), where
        lines.append(f"| {' | '.join(_cell(cell) or 'not stated' for cell in cells)} |")
    obligations = owed(teachers)
    if obligations:
        lines += ["", "What they oblige to:", ""]
        lines += [
            f"- {_cell(text)} ({_cell(wording.listed(names))})" for text, names in obligations
        ]
    return [*lines, ""]


def _cost(evaluation: Record) -> list[str]:
    if "bill" not in evaluation:
        return []
    said = bill.in_words(evaluation["bill"]).removeprefix("bill: ")
    return ["## Bill", "", f"{said}.", ""]


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _cell(text: str) -> str:
    """Return text that stays inside its cell of a table, or its item of a list."""
    return " ".join(text.split()).replace("|", "\\|")
