"""Texts of a result on disk: each there whole under its name, or not at all."""

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


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the directory itself is what fails
