"""The record of a run: a manifest that pins what went in, who taught, and what came out.

`manifest.json` (`papers.schema`) is written when all else is there; a directory that has one is
finished.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import audit
import distill
import student
from audit.attest import digest, file_digest
from distill.config import RunConfig, TeacherConfig
from distill.loss import objective
from distill.papers.schema import CURRENT
from distill.rollout.config import WRITER, RolloutConfig
from distill.terms import Terms
from student import device as devices
from student.inherited import Inheriting
from student.released_fields import MLA, V4

_PACKAGES = (
    *devices.PACKAGES,
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gguf",
    "spiritsafe",
)
_UNCUT = frozenset({"init", "family", "calibration_tokens", "max_position_embeddings"})
_SOURCES = (".py", ".j2", ".css", ".toml")


def versions() -> dict[str, str]:
    """Return the installed versions of what a run's numbers depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the time in UTC, as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def code_digest() -> str:
    """Return one digest of the sources a run and its papers depend on, as they are installed."""
    files = []
    for package in (audit, distill, student):
        root = Path(str(package.__file__)).parent
        found = (path for suffix in _SOURCES for path in root.rglob(f"*{suffix}"))
        for path in sorted(found):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            files.append([name, file_digest(path)])
    return digest(files)


def teacher(stated: TeacherConfig, *, sha256: str, tokens: int, model: str = "") -> dict[str, Any]:
    """Return the manifest's row of a teacher.

    Args:
        stated: what the config says of it; its terms and obligations are copied.
        sha256: of its weights, or of the log of what it answered.
        tokens: positions of training it spoke of; 0 for a teacher that only measures.
        model: what a served teacher calls itself.
    """
    return {
        "name": stated.name,
        "kind": "weights on disk" if stated.endpoint is None else f"served, {stated.says}",
        "model": model,
        "sha256": sha256,
        "licence": stated.licence,
        **_terms(stated.owned, stated.terms),
        "weight": stated.weight,
        "tags": list(stated.tags),
        "tokens": tokens,
    }


def writer(stated: RolloutConfig, *, sha256: str, tokens: int) -> dict[str, Any]:
    """Return the same row of a server that answers in the student's place; its weight is 0.

    Args:
        stated: what the config says of it.
        sha256: of the log of what it answered.
        tokens: that it wrote.
    """
    assert stated.endpoint is not None
    return {
        "name": WRITER,
        "kind": "served, answers in the student's place",
        "model": stated.endpoint.model,
        "sha256": sha256,
        "licence": "",
        **_terms(stated.owned, stated.terms),
        "weight": 0.0,
        "tags": [],
        "tokens": tokens,
    }


def _terms(owned: bool, stated: Terms | None) -> dict[str, Any]:
    terms = None if stated is None else asdict(stated)
    obligations = list(terms["obligations"]) if terms else []
    return {"owned": owned, "terms": terms, "obligations": obligations}


def inherited(config: RunConfig) -> dict[str, Any] | None:
    """Return whose weights the student began with and what was cut; None if they were drawn."""
    if not isinstance(config.student, Inheriting):
        return None
    teacher = next(teacher.name for teacher in config.teachers if teacher.path is not None)
    asked = asdict(config.student)
    cut = {name: value for name, value in asked.items() if name not in _UNCUT}
    return {"teacher": teacher, **cut}


def manifest(
    *,
    config: RunConfig,
    config_text: str,
    device: torch.device,
    inputs: list[dict[str, str]],
    outputs: list[dict[str, str]],
    teachers: Sequence[Mapping[str, Any]],
    tokens: int,
    sizes: Mapping[str, int | float],
    vocabularies: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the manifest of a finished run.

    Args:
        config: the resolved config; its terms of the loss are listed with their names.
        config_text: the same, as written.
        device: where the run was computed.
        inputs: lines of `material`.
        outputs: lines of `outputs`.
        teachers: rows of `teacher`.
        tokens: positions the student was trained on.
        sizes: of the student.
        vocabularies: for each teacher on disk, `teacher` and how its tokens meet the student's.
    """
    found = versions()
    named = zip(objective.names(config.loss), config.loss, strict=True)
    layout = V4 if config.student.family == "v4" else MLA
    return {
        "schema": CURRENT,
        "tool": f"spiritsafe {found.get('spiritsafe', 'unknown')}",
        "created": now(),
        "run": {
            "role": "student" if config.is_taught else "control",
            "seed": config.seed,
            "steps": config.train.steps,
            "tokens": tokens,
            "dtype": str(devices.compute_dtype(device, config.dtype)).removeprefix("torch."),
            **sizes,
        },
        "student": {
            "family": config.student.family,
            "model_type": layout.model_type,
            "inherited": inherited(config),
        },
        "losses": [{"name": name, **asdict(term)} for name, term in named],
        "teachers": list(teachers),
        "vocabularies": list(vocabularies),
        "inputs": inputs,
        "outputs": outputs,
        "device": devices.describe(device),
        "packages": found,
        "code": {"version": found.get("spiritsafe", "unknown"), "sha256": code_digest()},
        "config_sha256": digest(config_text),
    }
