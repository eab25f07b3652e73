"""Is that which a run read, and wrote on the way, what the run's manifest pins by digest?

It may lie elsewhere, and signals may be shared with other runs; what is not there is said and is
no fault. A log that another run has added to since still begins with what this one was told.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from audit.attest import digest, file_digest
from audit.inspection import Row
from distill.errors import DistillError
from distill.rollout.writings import Writings
from distill.store.store import Store
from distill.store.verify import StoreReport
from distill.teachers.served import RESPONSES

_AWAY = "not there: it lies elsewhere or was deleted"
_OTHER = "are gone, or not those that the run read"


def inputs(path: Path, manifest: dict[str, Any], reports: Sequence[StoreReport]) -> Iterator[Row]:
    """Tell of what the run read, and of what was written on the way, whether it is there."""
    rows = manifest["inputs"]
    named = {row["sha256"] for row in rows}
    signals, own = path / "signals", path / "rollouts"
    stores = [report for report in reports if report.path.is_relative_to(signals)]
    logs = [sha256 for log in _files(signals, RESPONSES) for sha256 in _begins(log, named)]
    kept = [file_digest(file) for file in _files(signals, "answers/accepted.jsonl")]
    there = {
        "teacher signals": [_sha256(report) for report in stores],
        "teacher's answers": logs,
        "answers a teacher wrote": [*kept, *logs],
        "student's answers": _writings(own),
        "answers on the way": [file_digest(log) for log in _files(own, RESPONSES)],
    }
    for row in rows:
        if row["kind"] in there and row["sha256"] != digest([]):  # of a log that was never begun
            left = there[row["kind"]]
            found = row["sha256"] in left
            if found:
                left.remove(row["sha256"])  # of two that were alike one may be gone
            yield _told(row, found, strange=not named.issuperset(left))


def _files(place: Path, name: str) -> list[Path]:
    """Return the files of this name in the directories of `place`; a pipe would be waited for."""
    return [path for path in place.glob(f"*/{name}") if path.is_file()]


def _told(row: dict[str, Any], there: bool, *, strange: bool) -> Row:
    """Return what is said of an input: is it there, or something of its kind that nobody names?"""
    if there:
        return Row(what=row["name"], ok=True, seen=row["sha256"])
    if strange:
        return Row(what=row["name"], ok=False, seen=_OTHER)
    return Row(what=row["name"], ok=None, seen=_AWAY)


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
