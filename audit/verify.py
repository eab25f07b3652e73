"""`audit verify`: is an audit or a validation what its statement says, to a byte?

On top of the inspection of any directory with a statement: report.json fits its schema, report.html
is the rendering of it, and the answers of a log are filed under the questions that were asked.
"""

from collections.abc import Iterator
from pathlib import Path

from audit import claims, envelope, filed, inspection
from audit.errors import InputError
from audit.evidence import Report
from audit.inspection import Inspection, Row
from audit.response_log import misfiled
from audit.statement import ENVELOPE, STATEMENT, files_under

REPORT, PAGE, METRICS, LOG = "report.json", "report.html", "metrics.json", "responses.jsonl"
SCHEMA, DRAWING = f"{REPORT}: schema", f"{PAGE}: rendering of {REPORT}"


def inspect(path: Path, key: Path | None = None) -> Inspection:
    """Look at the directory of an audit or of a validation, or at one file of it.

    Of a file, its own rows are given, and those of the statement and the envelope beside it; of
    statement or envelope, all rows.

    Args:
        path: what is looked at; damage is a row.
        key: an ed25519 public key in PEM, by which the statement should be signed.

    Raises:
        InputError: there is neither, or the key cannot be used.
        AuditError: a key is given and the extra `sign` is not installed.
    """
    try:
        is_directory = path.is_dir()
        place = path if is_directory else path.parent
        found = is_directory or _has(place, path.name)
        ours = any(_has(place, name) for name in (REPORT, PAGE, METRICS))
        stated = any(_has(place, name) for name in (STATEMENT, ENVELOPE))
        is_run = _has(place, "manifest.json") and not ours
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be looked at: {error}.") from error
    if not found or is_run or not (ours or stated):
        raise InputError(
            f"{path} is no audit, no validation, and no file of one; name what `audit probe` or "
            "`audit validate` wrote (`distill verify` looks at runs and stores)."
        )
    if is_directory or path.name in (STATEMENT, ENVELOPE):
        return Inspection(rows=tuple(_all(place, key)))
    return Inspection(rows=tuple(_of_file(place, path.name, key)))


def _is_own(name: str) -> bool:
    """Tell whether the file called `name` is JSON that an audit or a validation writes."""
    return name in (REPORT, METRICS)


def _has(place: Path, name: str) -> bool:
    return (place / name).exists() or (place / name).is_symlink()


def _all(place: Path, key: Path | None) -> Iterator[Row]:
    own, named = inspection.of_statement(place)
    signed = envelope.of_envelope(place, key)
    yield own
    yield from inspection.of_files(place, named, is_canonical=_is_own)
    if _has(place, REPORT) or _has(place, PAGE):
        yield from _of_report(place)
    for name, log in files_under(place).plain.items():
        if log.name == LOG:
            yield _of_log(log, name)
    yield signed


def _of_file(place: Path, name: str, key: Path | None) -> Iterator[Row]:
    own, named = inspection.of_statement(place)
    signed = envelope.of_envelope(place, key)
    yield own
    if own.seen == inspection.GONE:
        yield Row(what=name, ok=None, seen="not compared: nothing beside it names it")
    else:
        yield from inspection.of_files(place, named, is_canonical=_is_own, only=[name])
    if name in (REPORT, PAGE):
        yield from _of_report(place)
    yield signed


def _of_report(place: Path) -> Iterator[Row]:
    """Yield whether report.json fits its schema, and whether report.html is what is drawn of it."""
    value, problem = inspection.load_own(place, REPORT)
    try:
        if problem:
            raise ValueError(problem)
        report = filed.report_of(value)
    except ValueError as error:
        yield Row(what=SCHEMA, ok=False, seen=str(error))
        yield Row(what=DRAWING, ok=None, seen=f"not compared: {REPORT} cannot be drawn")
        return
    yield Row(what=SCHEMA, ok=True, seen=report.schema)
    ok, seen = _compared(place / PAGE, report)
    yield Row(what=DRAWING, ok=ok, seen=seen)


def _compared(page: Path, report: Report) -> tuple[bool | None, str]:
    """Return whether the file `page` is what is drawn of `report`, and what to say of it."""
    try:
        if page.is_symlink() or not page.is_file():
            return None, f"not compared: there is no file {PAGE}"
        same = page.read_bytes() == filed.page(report).encode()
    except (OSError, ValueError) as error:
        return False, f"cannot be compared: {error}"
    if not same and report.tool != claims.tool():
        return None, f"not compared: it was drawn by {report.tool}, and this is {claims.tool()}"
    return same, f"what `audit report` draws of {REPORT}" if same else f"is not what {REPORT} gives"


def _of_log(path: Path, name: str) -> Row:
    what = f"{name}: questions"
    try:
        lines, strange = misfiled(path)
    except OSError as error:
        return Row(what=what, ok=False, seen=f"cannot be read: {error.strerror}")
    if strange:
        said = f"line {strange[0]} is not filed under the question it answers"
        return Row(what=what, ok=False, seen=said)
    return Row(what=what, ok=True, seen=f"{lines} answers, each under its question")
