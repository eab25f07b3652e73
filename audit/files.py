"""Texts of a result on disk: each there whole under its name, or not at all."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from audit.errors import AuditError


def write_text(path: Path, text: str) -> None:
    """Write `text`; what stood there before stays until the new text is whole.

    A lone surrogate in an answer, which UTF-8 cannot carry, becomes its JSON escape.

    Raises:
        AuditError: the place cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        _remove(partial)
        raise AuditError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another --out."
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


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the directory itself is what fails
