"""Look at a directory that this package wrote, a run or stores, and say what is intact."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.attest import digest, file_digest
from distill import files, materials
from distill.errors import DistillError, InputError
from distill.papers import record
from distill.rollout.writings import Writings
from distill.store import chain
from distill.store.store import Store
from distill.store.verify import StoreReport, verify
from distill.teachers.served import RESPONSES

_AWAY = "not there: it lies elsewhere or was deleted"
_OTHER = "are gone, or not those that the run read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was looked at: rows of `what`, `ok` and `seen`; `ok` is None of what is not there."""

    rows: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether everything that is there is intact."""
        return all(row["ok"] is not False for row in self.rows)


def inspect(path: Path) -> Inspection:
    """Recompute every digest of the run, of the store, or of all stores below `path`.

    What a run read and wrote on the way is looked at too, where it lies in its own directory:
    each store in itself, and whether signals, logs and answers are those that the run's manifest
    names. A log that another run has added to since still begins with what this one was told.

    Raises:
        InputError: there is none of them.
        StorageError: the manifest cannot be read.
    """
    manifest = files.read_json(path / chain.MANIFEST)
    is_run = manifest.get("schema") == record.SCHEMA
    places = sorted(found.parent for found in path.glob(f"**/{chain.MANIFEST}"))
    if not places:
        raise InputError(
            f"{path} has no {chain.MANIFEST}; name a finished run, a store, or a directory of "
            "stores."
        )
    reports = [verify(place) for place in places if not (is_run and place == path)]
    rows = list(_run(path, manifest)) if is_run else []
    if is_run:
        rows += _read(path, manifest, reports)
    for report in reports:
        rows += _store(report.path, report)
    return Inspection(rows=tuple(rows))


def _run(path: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    changed = materials.changed(path, manifest)
    for output in manifest["outputs"]:
        name = output["name"]
        seen = "is gone or was changed" if name in changed else output["sha256"]
        yield {"what": name, "ok": name not in changed, "seen": seen}


def _read(
    path: Path, manifest: dict[str, Any], reports: Sequence[StoreReport]
) -> Iterator[dict[str, Any]]:
    """Tell of what the run read, and of what was written on the way, whether it is there."""
    inputs = manifest["inputs"]
    named = {row["sha256"] for row in inputs}
    signals, own = path / "signals", path / "rollouts"
    stores = [report for report in reports if report.path.is_relative_to(signals)]
    logs = [sha256 for log in signals.glob(f"*/{RESPONSES}") for sha256 in _begins(log, named)]
    kept = [file_digest(file) for file in signals.glob("*/answers/accepted.jsonl")]
    there = {
        "teacher signals": [_sha256(report) for report in stores],
        "teacher's answers": logs,
        "answers a teacher wrote": [*kept, *logs],
        "student's answers": _writings(own),
        "answers on the way": [file_digest(log) for log in own.glob(f"served/{RESPONSES}")],
    }
    for row in inputs:
        if row["kind"] in there and row["sha256"] != digest([]):  # of a log that was never begun
            left = there[row["kind"]]
            found = row["sha256"] in left
            if found:
                left.remove(row["sha256"])  # of two that were alike one may be gone
            yield _told(row, found, strange=not named.issuperset(left))


def _told(row: dict[str, Any], there: bool, *, strange: bool) -> dict[str, Any]:
    """Return what is said of an input: is it there, or something of its kind that nobody names?"""
    if there:
        return {"what": row["name"], "ok": True, "seen": row["sha256"]}
    if strange:
        return {"what": row["name"], "ok": False, "seen": _OTHER}
    return {"what": row["name"], "ok": None, "seen": _AWAY}


def _sha256(report: StoreReport) -> str:
    return "" if report.problem else Store.open(report.path).sha256()


def _writings(path: Path) -> list[str]:
    try:
        found = Writings.open(path)
    except DistillError:
        return [""]
    return [] if found is None else [found.sha256()]


def _begins(log: Path, named: Collection[str]) -> list[str]:
    """Return the digests in `named` of what the log begins with, or else that of all of it."""
    read, found = hashlib.sha256(), []
    with log.open("rb") as stream:
        for line in stream:
            read.update(line)
            if read.hexdigest() in named:
                found.append(read.hexdigest())
    return found or [read.hexdigest()]


def _store(path: Path, report: StoreReport) -> Iterator[dict[str, Any]]:
    whole = report.problem or f"{len(report.intact)} shards, {report.tokens:,} tokens"
    yield {"what": str(path), "ok": not report.problem, "seen": whole}
    for name, reason in report.broken:
        yield {"what": f"{path / name}", "ok": False, "seen": reason}
    for name in report.missing:
        yield {"what": f"{path / name}", "ok": False, "seen": "is gone"}
