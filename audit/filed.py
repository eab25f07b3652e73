"""A `report.json` that is there already: read strictly, to a byte, and drawn again as its page."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audit import inspection
from audit.attest import canonical_bytes
from audit.errors import InputError
from audit.evidence import Report, from_json, to_json
from audit.report.render import render


def read(path: Path) -> Report:
    """Return the report in the file at `path`, which must be what `audit probe` writes, to a byte.

    Raises:
        InputError: it is not; says why.
    """
    value, problem = inspection.load(path)
    if problem:
        raise InputError(f"{path}: {problem}; give a report.json as `audit probe` wrote it.")
    try:
        return report_of(value)
    except ValueError as error:
        raise InputError(
            f"{path}: {error}; give a report.json as `audit probe` wrote it."
        ) from error


def report_of(value: Any) -> Report:
    """Return the report that `value`, as read from JSON, is.

    Raises:
        ValueError: it departs from the schema; says where.
    """
    kind = "it is no spiritsafe.report/1"
    if not isinstance(value, dict):
        raise ValueError(f"{kind}: it is no object")
    try:
        report = from_json(value)
        again = canonical_bytes(to_json(report))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{kind}: {where}: {first['msg']}") from error
    except RecursionError as error:
        raise ValueError(f"{kind}: it is nested too deeply") from error
    if again != canonical_bytes(value):
        raise ValueError(f"{kind}: a field is left out, or is of another type than it should be")
    return report


def page(report: Report) -> str:
    """Return the page of `report`, as `report.html` holds it.

    Raises:
        ValueError: it has figures that no audit comes to, and no page can show.
    """
    try:
        return render(report)
    except (ArithmeticError, LookupError, RecursionError) as error:
        raise ValueError(f"it cannot be drawn: {type(error).__name__}: {error}") from error


def drawn(path: Path) -> str:
    """Return the page of the report in the file at `path`.

    Raises:
        InputError: it holds none, or one that cannot be drawn.
    """
    try:
        return page(read(path))
    except ValueError as error:
        raise InputError(
            f"{path}: {error}; give a report.json as `audit probe` wrote it."
        ) from error


def finished(out: Path) -> Report | None:
    """Return the report of the audit in `out`, if it was finished and all it wrote is intact."""
    own, named = inspection.of_statement(out)
    rows = inspection.of_files(out, named)
    if not own.ok or not all(row.ok for row in rows if row.what in named):
        return None
    try:
        return read(out / "report.json")
    except InputError:
        return None
