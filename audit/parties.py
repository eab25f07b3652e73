"""Who takes part in an audit, looked up on disk and pinned by digest.

A party is given as answers (.jsonl), as a model directory, or as a run directory of `distill`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit import responses
from audit.attest import file_digest, tree_digest
from audit.config import AuditConfig
from audit.errors import InputError
from audit.evidence import Material
from audit.responses import Response

if TYPE_CHECKING:
    from audit.local import ModelFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """One model or answers file of the audit: the suspect, a teacher, a control, a reference."""

    name: str
    role: str
    path: Path
    files: "ModelFiles | None"

    def sha256(self) -> str:
        """Return the digest of weights or answers."""
        return file_digest(self.path) if self.files is None else self.files.sha256()


def gather(config: AuditConfig) -> list[Party]:
    """Return everyone who takes part, each looked up on disk."""
    start = Path(config.suspect_start) if config.suspect_start else None
    found = [_party("suspect", "suspect", config.suspect, start)]
    for role, named in (
        ("teacher", {name: path for name, (path,) in config.teacher_paths().items()}),
        ("control", config.controls),
        ("reference", config.reference_models),
    ):
        found += [_party(name, role, path, None) for name, path in named.items()]
    return found


def _party(name: str, role: str, path: str, start: Path | None) -> Party:
    where = Path(path)
    if not where.exists():
        raise InputError(f"{name}: {path} does not exist; check the name.")
    if responses.is_responses_file(where):
        return Party(name=name, role=role, path=where, files=None)
    if not where.is_dir():
        raise InputError(f"{name}: {path} is neither a .jsonl file of answers nor a directory.")
    from audit.local import find  # loads torch, which a text audit does without

    return Party(name=name, role=role, path=where, files=find(name, where, start))


def held_out_prompts(config: AuditConfig, suspect: Party) -> tuple[list[Response], list[Material]]:
    """Return the prompts with their true continuations, where there are any."""
    path = None if config.prompts is None else Path(config.prompts)
    if path is None and suspect.files is not None and suspect.files.run is not None:
        path = suspect.files.run / "heldout.jsonl"
    if path is not None:
        note = Material(name=path.name, kind="held-out prompts", sha256=_file_digest(path))
        return responses.read(path), [note]
    if suspect.files is None:
        return responses.read(suspect.path), []
    raise InputError(
        f"{suspect.path} is a model without prompts; give --prompts FILE, held-out prompts with "
        "their true continuations as `response`."
    )


def _file_digest(path: Path) -> str:
    """Return a file's digest, or say that it is missing."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the name.")
    return file_digest(path)


def materials(parties: Sequence[Party]) -> list[Material]:
    """Return a line for every file or directory the audit reads of the parties."""
    rows = []
    for party in parties:
        what = "answers" if party.files is None else "weights"
        rows.append(Material(name=party.name, kind=f"{party.role}: {what}", sha256=party.sha256()))
        if party.files is not None and party.files.start is not None:
            kind, sha256 = f"{party.role}: starting checkpoint", tree_digest(party.files.start)
            rows.append(Material(name=party.name, kind=kind, sha256=sha256))
    _refuse_twins(rows)
    return rows


def _refuse_twins(materials: Sequence[Material]) -> None:
    """Refuse one model under two names: as a second control it would shrink the spread of runs."""
    seen: dict[str, str] = {}
    for row in materials:
        if row.kind.startswith(("control", "reference")) and not row.kind.endswith("checkpoint"):
            if row.sha256 in seen:
                raise InputError(
                    f"{seen[row.sha256]} and {row.name} are the same model; every control and "
                    "reference has to be one of its own."
                )
            seen[row.sha256] = row.name
