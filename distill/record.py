"""The record of a run: a manifest that pins what went in and what came out, and the model card.

`manifest.json` (schema `spiritsafe.run/1`) is written last; a directory that has one is finished.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import audit
import distill
import student
from audit.attest import digest, file_digest, tree_digest
from distill.config import RunConfig
from distill.errors import StorageError
from distill.store import write_atomically
from student import device as devices

SCHEMA = "spiritsafe.run/1"
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "spiritsafe")


def material(name: str, kind: str, sha256: str, note: str = "") -> dict[str, str]:
    """Return one line of the record: something that went in or came out, pinned by digest."""
    return {"name": name, "kind": kind, "sha256": sha256, "note": note}


def outputs(out: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Return a line for each file or directory `names` of the run directory `out`."""
    rows = []
    for name in names:
        path = out / name
        tree = path.is_dir()
        sha256 = tree_digest(path) if tree else file_digest(path)
        rows.append(material(name, "directory" if tree else "file", sha256))
    return rows


def changed(out: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the outputs of `manifest` that are gone from `out` or are not what was written."""
    return [
        row["name"]
        for row in manifest["outputs"]
        if not (out / row["name"]).exists() or outputs(out, [row["name"]])[0] != row
    ]


def versions() -> dict[str, str]:
    """Return the installed versions of what a run's numbers depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_digest() -> str:
    """Return one digest of the sources a run depends on, as they are installed."""
    files = []
    for package in (audit, distill, student):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            files.append([name, file_digest(path)])
    return digest(files)


def manifest(
    *,
    config: RunConfig,
    config_text: str,
    device: torch.device,
    inputs: list[dict[str, str]],
    outputs: list[dict[str, str]],
    teacher: dict[str, str],
    sizes: dict[str, int | float],
) -> dict[str, Any]:
    """Return the manifest of a finished run."""
    found = versions()
    return {
        "schema": SCHEMA,
        "tool": f"spiritsafe {found.get('spiritsafe', 'unknown')}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "run": {
            "role": "student" if config.uses_teacher else "control",
            "seed": config.seed,
            "steps": config.train.steps,
            "tokens": config.train.steps * config.train.batch_size * config.text.sequence_length,
            "dtype": str(devices.compute_dtype(device, config.dtype)).removeprefix("torch."),
            **sizes,
        },
        "teacher": teacher,
        "inputs": inputs,
        "outputs": outputs,
        "device": devices.describe(device),
        "packages": found,
        "code": {"version": found.get("spiritsafe", "unknown"), "sha256": code_digest()},
        "config_sha256": digest(config_text),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, or an empty one when there is no such file.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StorageError(f"{path} is damaged; delete it and run again.") from error
    return value


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically.

    Raises:
        StorageError: the disk refused; what stood there still stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was finished is kept, "
            "so free space and run the same command again."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, indented for a reader."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def model_card(config: RunConfig, evaluation: dict[str, Any], record: dict[str, Any]) -> str:
    """Return the model card of the run, README.md of its directory."""
    before, after = evaluation["before"], evaluation["after"]
    taught = config.uses_teacher
    how = (
        f"distilled from {config.teacher.name} (licence as stated: {config.teacher.licence}) by "
        f"forward KL (weight {config.loss.forward_kl}) and cross-entropy "
        f"(weight {config.loss.cross_entropy})"
        if taught
        else "trained on the text alone, without a teacher: a control"
    )
    header = ["library_name: transformers", "pipeline_tag: text-generation", "tags: "]
    header[-1] += "[distillation, mla, mixture-of-experts]" if taught else "[control, mla]"
    if taught:
        header.append(f"distilled_from: {json.dumps(config.teacher.name)}")
    lines = [
        "---",
        *header,
        "---",
        f"# {record['run']['role']}, seed {config.seed}",
        "",
        f"A `deepseek_v3` language model with {record['run']['parameters']:,} parameters "
        f"({record['run']['active_parameters']:,} active a token), {how}, on "
        f"{record['run']['tokens']:,} tokens of {', '.join(config.text.sources)}.",
        "",
        "| held-out text | before | after |",
        "|---|---|---|",
        f"| KL to the teacher, nats a token | {before['kl']:.3f} | {after['kl']:.3f} |",
        f"| top-1 agreement with the teacher | {before['top1_agreement']:.1%} "
        f"| {after['top1_agreement']:.1%} |",
        f"| bits per byte | {before['bits_per_byte']:.3f} | {after['bits_per_byte']:.3f} |",
        "",
        "A model of this size and training writes fragments, not facts.",
        f"What went in and came out is pinned in `manifest.json`, made by {record['tool']}.",
        "",
    ]
    return "\n".join(lines)
