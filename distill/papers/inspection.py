"""Look at a directory that this package wrote, a run or stores, and say what is intact.

Of a run every file is held against its statement, every record against its canonical bytes, every
paper against the records it is made from, every store against its hash chain, and what was read
against the digests in the manifest. Signals may be shared: another run may have added to a log or
laid its own files beside those of this run, and a whole directory of them may have been moved or
deleted; that is said and is no fault.

Nothing here raises on what it finds: what cannot be read is a row that says so.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit import envelope, inspection
from audit.attest import digest, parse
from audit.inspection import CHANGED, GONE, UNNAMED, Inspection, Row
from audit.statement import OWN, STATEMENT, files_under
from distill import materials
from distill.errors import InputError
from distill.papers import bom, pinned, provenance, record, render, schema, weights_signature
from distill.store import chain
from distill.store.verify import StoreReport, verify
from distill.teachers.served import RESPONSES

_OLDER = "is not there: the run was made before runs had statements"
_ADDED = "is not named by the statement: added since, as by another run with these signals"
_LONGER = "begins with what the statement names, and was added to since"
_DISTANT = "not there: lies elsewhere or was deleted"
_LEFT = "is not named by the manifest: left by a capture that was killed, or added"
_OTHER_CODE = "was made by another version of this package, which cannot be repeated here"
_LOGS = (RESPONSES, "answers.jsonl", "preflight.jsonl")
_RECORDS = (render.MANIFEST, render.EVALUATION, bom.FILE, weights_signature.FILE)
_BULK = ("signals/", "rollouts/")


def inspect(path: Path, key: Path | None = None, weights_key: Path | None = None) -> Inspection:
    """Recompute every digest of the run, of the store, or of all stores below `path`.

    Args:
        path: of a run, a store, or a directory of stores.
        key: the public key that signed the run's statement; None where that is not asked.
        weights_key: the public key that signed the student's weights; None as well.

    Raises:
        InputError: there is none of them, or a key cannot be used.
        AuditError: a key is given, and what checks signatures is not installed.
    """
    if _is_run(path):
        return Inspection(rows=tuple(_run(path, key, weights_key)))
    if key is not None or weights_key is not None:
        raise InputError(f"{path} is no run; only the statement of a run is signed.")
    places = sorted(found.parent for found in path.glob(f"**/{chain.MANIFEST}"))
    if not places:
        raise InputError(
            f"{path} has no {chain.MANIFEST}; name a finished run, a store, or a directory of "
            "stores."
        )
    return Inspection(rows=tuple(row for place in places for row in _alone(place)))


def _is_run(path: Path) -> bool:
    """Tell a run from a store, also where its manifest is damaged or gone."""
    if (path / STATEMENT).exists() or (path / render.METRICS).exists():
        return True
    manifest, _ = inspection.load(path / render.MANIFEST)
    match manifest:
        case {"schema": str(named)}:
            return named in (schema.CURRENT, schema.OLDER)
    return False


def _run(path: Path, key: Path | None, weights_key: Path | None) -> Iterator[Row]:
    manifest, damage = _manifest(path)
    older = manifest is not None and manifest["schema"] == schema.OLDER
    if older and not (path / STATEMENT).exists():
        yield Row(what=STATEMENT, ok=None, seen=_OLDER)
    else:
        yield from _stated(path)
        yield envelope.of_envelope(path, key)
        yield from weights_signature.of_weights(path, weights_key)
    if manifest is None:
        yield Row(what=render.MANIFEST, ok=False, seen=damage)
    reports = _stores(path)
    for name, report in reports.items():
        yield from _store(name, report)
    if manifest is not None:
        yield from _against_manifest(path, manifest, list(reports.values()))
        if not older:
            yield from _papers(path, manifest)


def _manifest(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the manifest, or what keeps it from being one."""
    file = path / render.MANIFEST
    value, damage = inspection.load(file)
    if value is None:
        return None, damage
    damage = schema.problem(file.read_bytes())
    return (None, damage) if damage else (value, "")


# Every file, against the statement.


def _stated(path: Path) -> Iterator[Row]:
    own, subjects = inspection.of_statement(path)
    yield own
    rows = inspection.of_files(path, subjects, is_canonical=_is_canonical)
    distant = {}
    for row in rows:
        place = row.what.rpartition("/")[0]
        if row.seen == GONE and row.what.startswith(_BULK) and not (path / place).exists():
            distant[place] = Row(what=place, ok=None, seen=_DISTANT)
        else:
            yield _shared(path, row, subjects)
    yield from distant.values()


def _is_canonical(name: str) -> bool:
    """Tell whether a file is JSON that this package writes."""
    ours = name.startswith((*_BULK, "answers/"))
    return name in _RECORDS or (ours and name.endswith(".json"))


def _shared(path: Path, row: Row, subjects: Mapping[str, str]) -> Row:
    """Return the row of a file; among signals other runs may have written, too."""
    if row.ok is not False or not row.what.startswith("signals/"):
        return row
    if row.seen == UNNAMED:
        return replace(row, ok=None, seen=_ADDED)
    is_other = row.what.endswith(_LOGS) and row.seen.startswith(CHANGED)
    if is_other and _begins(path / row.what, subjects[row.what]):
        return replace(row, ok=True, seen=_LONGER)
    return row


def _begins(log: Path, sha256: str) -> bool:
    """Tell whether a log begins with what has this digest, and only whole entries follow."""
    read = hashlib.sha256()
    found = read.hexdigest() == sha256
    try:
        with log.open("rb") as stream:
            for line in stream:
                if found and not (line.endswith(b"\n") and isinstance(parse(line), dict)):
                    return False
                read.update(line)
                found = found or read.hexdigest() == sha256
    except (OSError, ValueError):
        return False
    return found


# What the run's own records say.


def _stores(path: Path) -> dict[str, StoreReport]:
    """Return what was found in every store in the run directory, by name."""
    found = files_under(path, skip=lambda name: not f"{name}/".startswith(_BULK)).plain
    places = [file.parent for file in found.values() if file.name == chain.MANIFEST]
    return {place.relative_to(path).as_posix(): verify(place) for place in places}


def _store(name: str, report: StoreReport) -> Iterator[Row]:
    whole = report.problem or f"{len(report.intact)} shards, {report.tokens:,} tokens"
    yield Row(what=name, ok=not report.problem, seen=whole)
    for file, reason in report.broken:
        yield Row(what=f"{name}/{file}", ok=False, seen=reason)
    for file in report.missing:
        yield Row(what=f"{name}/{file}", ok=False, seen=GONE)


def _alone(place: Path) -> Iterator[Row]:
    """Yield the rows of a store that is in no run: what nobody names is told, too."""
    report = verify(place)
    yield from _store(str(place), report)
    for file in report.extra:
        yield Row(what=f"{place}/{file}", ok=None, seen=_LEFT)


def _against_manifest(
    path: Path, manifest: dict[str, Any], reports: Sequence[StoreReport]
) -> Iterator[Row]:
    for output in manifest["outputs"]:
        yield _output(path, output)
    config = _bytes(path / render.CONFIG) or b""
    if digest(config.decode("utf-8", errors="replace")) != manifest["config_sha256"]:
        yield Row(what=render.CONFIG, ok=False, seen="is not the one that the manifest names")
    try:
        yield from pinned.inputs(path, manifest, reports)
    except (OSError, ValueError) as error:
        yield Row(what="what the run read", ok=False, seen=f"cannot be looked at: {error}")


def _output(path: Path, output: dict[str, Any]) -> Row:
    name = output["name"]
    try:
        if not (path / name).resolve().is_relative_to(path.resolve()):
            return Row(what=name, ok=False, seen="lies outside of the run")
        there = (path / name).is_file() or (path / name).is_dir()  # a pipe would be waited for
        changed = not there or materials.changed(path, {"outputs": [output]})
    except (OSError, ValueError) as error:
        return Row(what=name, ok=False, seen=f"cannot be looked at: {error}")
    seen = "is gone or was changed" if changed else output["sha256"]
    return Row(what=name, ok=not changed, seen=seen)


def _papers(path: Path, manifest: dict[str, Any]) -> Iterator[Row]:
    """Hold every paper, and what the statement claims, against what the records give."""
    same_code = manifest["code"]["sha256"] == record.code_digest()
    for name in (render.EVALUATION, render.METRICS, render.CONFIG):
        if not (path / name).is_file():
            yield Row(what=name, ok=False, seen=GONE)
            return
    try:
        records = render.read(path)
        made = render.papers(records)
        claimed = provenance.predicate(path, records)
    except Exception as error:  # whatever damaged records do to what reads them
        seen = f"cannot be made from the records: {type(error).__name__}: {error}"
        yield Row(what=render.PAGE, ok=False, seen=seen)
        return
    for name, data in made.items():
        yield _repeated(name, _bytes(path / name) == data, same_code)
    claim = _claim(path)
    if claim is not None:  # else it was told already
        yield _repeated(STATEMENT, claim == claimed, same_code)


def _repeated(name: str, same: bool, same_code: bool) -> Row:
    if same:
        return Row(what=name, ok=True, seen="is what the records give")
    if same_code:
        return Row(what=name, ok=False, seen="is not what the records give")
    return Row(what=name, ok=None, seen=_OTHER_CODE)


def _claim(path: Path) -> Any:
    statement, _ = inspection.load(path / STATEMENT)
    match statement:
        case {"predicate": dict(predicate)}:
            return {name: value for name, value in predicate.items() if name != OWN}
    return None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
