"""Look at a directory that this package wrote, a run or stores, and say what is intact."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import files, materials
from distill.errors import InputError
from distill.papers import record
from distill.store import chain
from distill.store.store import Store
from distill.store.verify import StoreReport, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was looked at: rows of `what`, `ok` and `seen`."""

    rows: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether everything is intact."""
        return all(row["ok"] for row in self.rows)


def inspect(path: Path) -> Inspection:
    """Recompute every digest of the run, of the store, or of all stores below `path`.

    A run's stores are looked at too, where they lie in its own directory: each in itself, and
    whether they are those that the run's manifest names.

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
    if is_run and (path / "signals").is_dir():  # or they lie elsewhere, or were left out
        rows += _read(manifest, reports)
    for report in reports:
        rows += _store(report.path, report)
    return Inspection(rows=tuple(rows))


def _run(path: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    changed = materials.changed(path, manifest)
    for output in manifest["outputs"]:
        name = output["name"]
        seen = "is gone or was changed" if name in changed else output["sha256"]
        yield {"what": name, "ok": name not in changed, "seen": seen}


def _read(manifest: dict[str, Any], reports: Sequence[StoreReport]) -> Iterator[dict[str, Any]]:
    """Tell of each store that the run read whether it is there."""
    known = {Store.open(report.path).sha256() for report in reports if not report.problem}
    for row in manifest["inputs"]:
        if row["kind"] == "teacher signals":
            there = row["sha256"] in known
            seen = row["sha256"] if there else "are gone, or not those that the run read"
            yield {"what": row["name"], "ok": there, "seen": seen}


def _store(path: Path, report: StoreReport) -> Iterator[dict[str, Any]]:
    whole = report.problem or f"{len(report.intact)} shards, {report.tokens:,} tokens"
    yield {"what": str(path), "ok": not report.problem, "seen": whole}
    for name, reason in report.broken:
        yield {"what": f"{path / name}", "ok": False, "seen": reason}
    for name in report.missing:
        yield {"what": f"{path / name}", "ok": False, "seen": "is gone"}
