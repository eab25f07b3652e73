"""Texts of a result on disk: each there whole under its name, or not at all."""

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from audit.attest import canonical_bytes
from audit.errors import AuditError


def write_json(path: Path, value: Any) -> None:
    """Write `value` as its canonical bytes and nothing else, so that the file's digest is its own.

    Raises:
        AuditError: the place cannot be written.
        ValueError: `value` has no canonical JSON.
    """
    _write(path, canonical_bytes(value))


def write_text(path: Path, text: str) -> None:
    """Write `text`; what stood there before stays until the new text is whole.

    A lone surrogate in an answer, which UTF-8 cannot carry, becomes its JSON escape.

    Raises:
        AuditError: the place cannot be written.
    """
    _write(path, text.encode("utf-8", errors="backslashreplace"))


def remove(path: Path) -> None:
    """Remove the file at `path`, if there is one.

    Raises:
        AuditError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise AuditError(
            f"cannot remove {path}: {error.strerror or error}; choose another --out."
        ) from error


def comma_separated(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV with line feeds, which reads back as what it was.

    Python's writer leaves a cell with a carriage return bare, and its reader ends the row there.
    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the directory itself is what fails
            partial.unlink(missing_ok=True)
        raise AuditError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another --out."
        ) from error
