"""The papers that a run's records give: page, model card, training content, bill of materials.

Each is a function of four files, read back from the disk, and of nothing else. So a reader with
the same version of this package makes the same bytes again, and sees whether a paper was changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.attest import canonical_bytes, parse
from distill import files
from distill.errors import InputError, StorageError
from distill.papers import bom, training_content
from distill.papers.card import model_card
from distill.papers.page import render_run

PAGE, CARD = "run.html", "README.md"
MANIFEST, EVALUATION, METRICS, CONFIG = (
    "manifest.json",
    "eval.json",
    "metrics.jsonl",
    "config.yaml",
)
# Canonical JSON is sorted by name; a reader meets these in this order.
_RUN = ("role", "seed", "steps", "tokens", "dtype", "parameters", "active_parameters")
_STAGES = ("capture", "training", "evaluation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """What the papers of a run are made from.

    Attributes:
        manifest: as `manifest.json` has it.
        evaluation: as `eval.json` has it.
        metrics: a row a step, as `metrics.jsonl` has them.
        config: the text of `config.yaml`.
    """

    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: list[dict[str, Any]]
    config: str


def read(out: Path, manifest: dict[str, Any] | None = None) -> Records:
    """Return the records in the run directory `out`.

    Args:
        out: of a run.
        manifest: what the manifest is going to say; None for the one that is there.

    Raises:
        InputError: one of them is missing.
        StorageError: one cannot be read.
    """
    if manifest is None:
        manifest = files.read_json(out / MANIFEST)
        if not manifest:
            raise InputError(f"{out} is no finished run: it has no {MANIFEST}.")
    return Records(
        manifest=parse(canonical_bytes(files.portable(manifest))),
        evaluation=files.read_json(out / EVALUATION),
        metrics=_rows(out / METRICS),
        config=files.read_text(out / CONFIG),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in files.read_text(path).splitlines()]
    except ValueError as error:
        raise StorageError(f"{path} is damaged; restore it, or run again.") from error


def papers(records: Records) -> dict[str, bytes]:
    """Return the bytes of every paper by the name of its file."""
    manifest, evaluation = _in_order(records)
    title = "Control run" if manifest["run"]["role"] == "control" else "Distillation run"
    page = render_run(records.metrics, evaluation, manifest, records.config, title)
    materials = files.portable(bom.bill_of_materials(manifest, evaluation))
    return {
        PAGE: page.encode("utf-8"),
        CARD: model_card(evaluation, manifest).encode("utf-8"),
        training_content.FILE: training_content.draft(manifest).encode("utf-8"),
        bom.FILE: canonical_bytes(materials),
    }


def _in_order(records: Records) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return manifest and evaluation with facts, stages and teachers in the order of a reader."""
    manifest, evaluation = records.manifest, records.evaluation
    names = [teacher["name"] for teacher in manifest["teachers"]]
    samples = [
        {**sample, "teachers": _sorted(sample["teachers"], names)}
        for sample in evaluation["samples"]
    ]
    seconds = _sorted(evaluation["seconds"], _STAGES)
    return (
        {**manifest, "run": _sorted(manifest["run"], _RUN)},
        {**evaluation, "samples": samples, "seconds": seconds},
    )


def _sorted(found: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    names = [name for name in first if name in found]
    return {name: found[name] for name in dict.fromkeys((*names, *found))}
