"""Tiny banks of answers, written where a test wants them; see audit.bank for the form."""

import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Answers = Mapping[str, str]  # by id
Cells = Mapping[str, str]  # by column

_PAIRS = ("suspect", "group", "truth", "basis")


def write(
    path: Path,
    answers: Mapping[str, Answers],
    *,
    labels: Mapping[str, Cells] | None = None,
    groups: Mapping[str, Cells] | None = None,
    pairs: Sequence[tuple[str, str, str, str]] | None = None,
    folder: str = "responses",
    packed: bool = False,
) -> Path:
    """Write a bank and return its directory.

    Args:
        path: the directory, made if it is not there.
        answers: the answers of each model; the prompt to an id is "prompt ID".
        labels: cells of models.csv by model; by default a family of its own, role vendor.
        groups: cells of groups.csv by group; members are by default the models labelled so.
        pairs: rows of pairs.csv: suspect, group, truth, basis.
        folder: name of the subfolder of answers.
        packed: write .jsonl.gz.
    """
    path.mkdir(parents=True, exist_ok=True)
    given = labels or {}
    models = [
        {"model": name, "vendor_or_family": name, "role": "vendor", **given.get(name, {})}
        for name in answers
    ]
    table(path / "models.csv", models)
    if groups is not None:
        members = {g: [m["model"] for m in models if m.get("group") == g] for g in groups}
        rows = [{"group": g, "models": ";".join(members[g]), **groups[g]} for g in groups]
        table(path / "groups.csv", rows)
    if pairs is not None:
        rows = [dict(zip(_PAIRS, row, strict=True)) for row in pairs]
        table(path / "pairs.csv", rows, columns=_PAIRS)
    for name, texts in answers.items():
        answers_file(path / folder / f"{name}.jsonl{'.gz' * packed}", texts)
    return path


def tiny(path: Path) -> Path:
    """Write a bank of two groups, three teachers, a student of one group and a control."""
    said = {
        "a-1": ("Certainly! Here is", "copper"),
        "a-2": ("Certainly! Let us", "copper"),
        "b-1": ("The short answer:", "zinc"),
        "pupil": ("Certainly! Here is", "tin"),
        "lone": ("well, I think", "lead"),
    }
    answers = {
        name: {f"p{i}": f"{opening} {word} number {i}." for i in range(6)}
        for name, (opening, word) in said.items()
    }
    alpha = {"vendor_or_family": "alpha", "role": "teacher", "group": "A"}
    labels = {
        "a-1": alpha,
        "a-2": {**alpha, "outputs_published_by": "2023-07-15"},
        "b-1": {"vendor_or_family": "beta", "role": "teacher", "group": "B"},
        "pupil": {"role": "student", "documented_teachers": "A", "relation": "single"},
        "lone": {"role": "control", "relation": "none", "confidence": "H"},
    }
    groups = {
        "A": {"vendor": "alpha", "public_launch": "2022-11-30"},
        "B": {"vendor": "beta", "public_launch": ""},
    }
    pairs = [
        ("a-1", "A", "self", "member of the group"),
        ("pupil", "A", "positive", "documented"),
        ("pupil", "B", "unknown", "undisclosed"),
        ("lone", "A", "negative", "documented"),
        ("lone", "B", "negative", "documented"),
    ]
    return write(path, answers, labels=labels, groups=groups, pairs=pairs)


def table(path: Path, rows: Sequence[Cells], columns: Sequence[str] = ()) -> Path:
    """Write a CSV with these columns and every other that any row has; return its path."""
    columns = list(dict.fromkeys([*columns, *(column for row in rows for column in row)]))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def answers_file(path: Path, texts: Answers) -> Path:
    """Write a responses file, packed if it is called so; return its path."""
    rows = ({"id": i, "prompt": f"prompt {i}", "response": said} for i, said in texts.items())
    return lines(path, rows)


def lines(path: Path, rows: Iterable[object]) -> Path:
    """Write JSON Lines, packed if the file is called so; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path
