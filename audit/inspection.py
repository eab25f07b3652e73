"""Look at a directory with a statement, and say of every file whether it is intact.

Nothing here raises on what it finds, however damaged or hostile: what cannot be read is a row that
says so. Names and reasons are not yet fit for a terminal (`report.reveal`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.attest import canonical_bytes, file_digest, parse
from audit.statement import ENVELOPE, OWN, STATEMENT, TYPE, files_under, own_digest

_MOST = 12  # names in one line
GONE = "is gone"
CHANGED = "was changed"
UNNAMED = "is not named by the statement: added, or renamed"
LOOSE = "its bytes are not canonical JSON (RFC 8785)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was seen of one thing.

    Attributes:
        what: the name of a file, relative to the directory, or of something in it.
        ok: None where there is nothing to hold it against, or it lies elsewhere.
        seen: its digest, or what is wrong with it, in brief up to a colon.
    """

    what: str
    ok: bool | None
    seen: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """All that was looked at."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether something could be checked, and nothing was changed."""
        found = [row.ok for row in self.rows]
        return False not in found and True in found

    def summary(self) -> str:
        """Return in one line what is intact, what is not, and what could not be checked."""
        bad = list(dict.fromkeys(row.what for row in self.rows if row.ok is False))
        good = {row.what for row in self.rows if row.ok} - set(bad)
        more = f" and {len(bad) - _MOST} more" if len(bad) > _MOST else ""
        parts = [f"NOT INTACT: {', '.join(bad[:_MOST])}{more}"] if bad else []
        parts.append(f"intact: {len(good)}")
        parts += [f"{row.what} {row.seen.split(':')[0]}" for row in self.rows if row.ok is None]
        return "; ".join(parts)


def load(path: Path) -> tuple[Any, str]:
    """Return what the JSON file at `path` says, and what is wrong with its bytes, if anything.

    Where it says nothing that can be used, the first is None.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            return None, "is not a file"
        data = path.read_bytes()
        value = parse(data)
        return value, "" if canonical_bytes(value) == data else LOOSE
    except OSError as error:
        return None, GONE if isinstance(error, FileNotFoundError) else _unread(error)
    except ValueError as error:
        return None, f"cannot be read as JSON: {error}"


def load_own(directory: Path, name: str) -> tuple[Any, str]:
    """Return the same of a file of `directory`; no link is followed, wherever it leads."""
    try:
        if (directory / name).is_symlink():
            return None, "is a link"
    except OSError as error:
        return None, _unread(error)
    return load(directory / name)


def named(statement: Any) -> dict[str, str]:
    """Return the sha256 of every subject by name.

    Raises:
        ValueError: `statement` is no Statement whose subjects all have one.
    """
    match statement:
        case {"_type": str(kind), "subject": list(subjects), "predicate": dict()} if kind == TYPE:
            found = {}
        case _:
            raise ValueError("it is no in-toto Statement v1")
    for one in subjects:
        match one:
            case {"name": str(name), "digest": {"sha256": str(sha256)}} if name not in found:
                found[name] = sha256
            case _:
                raise ValueError("a subject has no name or no sha256, or the name of another one")
    return found


def of_statement(directory: Path) -> tuple[Row, Mapping[str, str]]:
    """Return the row of statement.json itself, and its subjects where they can be believed."""
    value, problem = load_own(directory, STATEMENT)
    if value is None:
        return Row(what=STATEMENT, ok=False, seen=problem), {}
    try:
        found = named(value)
        own = own_digest(value)
    except ValueError as error:
        return Row(what=STATEMENT, ok=False, seen=problem or f"{error}"), {}
    if not problem and value["predicate"].get(OWN) != own:
        problem = "was changed: it is not what its own digest says"
    return Row(what=STATEMENT, ok=not problem, seen=problem or own), found


def of_files(
    directory: Path,
    subjects: Mapping[str, str],
    *,
    skip: Callable[[str], bool] = lambda name: False,
    is_canonical: Callable[[str], bool] = lambda name: False,
    only: Collection[str] | None = None,
) -> Iterator[Row]:
    """Yield a row for every file under `directory` but statement and envelope, and every gone one.

    Args:
        directory: that is looked at.
        subjects: the sha256 that each file should have, by name.
        skip: given a name, tells whether what has it is nobody's to name.
        is_canonical: given a name, tells whether that file is written as canonical JSON.
        only: the names that are asked about, if not all.
    """
    found = files_under(directory, skip)
    for name in dict.fromkeys([*found.plain, *found.odd, *subjects]):
        if name in (STATEMENT, ENVELOPE) and name in found.plain:
            continue
        if only is not None and name not in only:
            continue
        if name in found.odd:
            yield Row(what=name, ok=False, seen=found.odd[name])
        elif name in found.plain:
            yield _of_file(name, found.plain[name], subjects.get(name), is_canonical(name))
        else:
            yield Row(what=name, ok=False, seen=GONE)


def _of_file(name: str, path: Path, sha256: str | None, canonical: bool) -> Row:
    try:
        found = file_digest(path)
    except OSError as error:
        return Row(what=name, ok=False, seen=_unread(error))
    if sha256 is None:
        return Row(what=name, ok=False, seen=UNNAMED)
    if found != sha256:
        return Row(what=name, ok=False, seen=f"{CHANGED}: its sha256 is {found}, not {sha256}")
    problem = load(path)[1] if canonical else ""
    return Row(what=name, ok=not problem, seen=problem or found)


def _unread(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
