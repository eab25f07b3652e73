"""`statement.json`: what a directory holds and what is claimed of it, as an in-toto Statement v1.

Its subjects are all other files of the directory, each with its digest, so it is written last. Its
predicate is what was done or found. Specifications: in-toto Attestation Framework, spec/v1
(Statement, ResourceDescriptor, DigestSet).

A statement that nobody signed is pinned by itself: `spiritsafe_sha256` of its predicate is the
digest of the statement without that field. That finds an accident; whoever changes a file on
purpose can make the statement anew.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.attest import digest, file_digest
from audit.errors import AuditError
from audit.files import remove, write_json
from audit.report.reveal import reveal_halves

STATEMENT = "statement.json"
ENVELOPE = "statement.sig.json"
TYPE = "https://in-toto.io/Statement/v1"
OWN = "spiritsafe_sha256"
_DIRECTORY = "is a directory"
TREE = "spiritsafe_tree_sha256"  # `attest.tree_digest`: of a directory, so no file's sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What lies under a directory; names are relative to it, with forward slashes.

    Attributes:
        plain: by name, every file that can be hashed. A link counts as the file it leads to, if
            that lies under the directory as well.
        odd: by name, why an entry is not such a file.
    """

    plain: Mapping[str, Path]
    odd: Mapping[str, str]


def files_under(directory: Path, skip: Callable[[str], bool] = lambda name: False) -> Files:
    """Look at all that lies under `directory`, without following a link to a directory.

    Args:
        directory: that is looked at.
        skip: given a name, tells whether the file or directory of that name is left out.
    """
    plain: dict[str, Path] = {}
    odd: dict[str, str] = {}
    root = directory.resolve()
    waiting = [directory]
    while waiting:
        place = waiting.pop()
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            odd[_name(place, directory)] = f"cannot be read: {error.strerror}"
            continue
        for entry in entries:
            name = _name(entry, directory)
            if skip(name):
                continue
            reason = _odd(entry, root)
            if reason == _DIRECTORY:
                waiting.append(entry)
            elif name in plain or name in odd:
                odd[name] = "another file has the same name, once both are written as UTF-8"
            elif reason:
                odd[name] = reason
            else:
                plain[name] = entry
    return Files(plain=dict(sorted(plain.items())), odd=dict(sorted(odd.items())))


def _name(path: Path, directory: Path) -> str:
    name: str = reveal_halves(path.relative_to(directory).as_posix())
    return name


def _odd(entry: Path, root: Path) -> str:
    """Return why an entry is no file to hash, a plain directory among them; empty if it is one."""
    try:
        if entry.is_symlink() and not entry.resolve().is_relative_to(root):
            return "is a link to somewhere else"
        if entry.is_file():
            return ""
        plain = entry.is_dir() and not entry.is_symlink()
        return _DIRECTORY if plain else "is neither a file nor a plain directory"
    except (OSError, RuntimeError) as error:  # the latter of a link in a circle
        return f"cannot be looked at: {error}"


def resource(
    name: str, sha256: str, *, of: str = "sha256", annotations: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a ResourceDescriptor.

    Args:
        name: of the thing.
        sha256: its digest.
        of: the algorithm's name in the DigestSet: `sha256` of a file's bytes, or `TREE`.
        annotations: further facts.
    """
    found: dict[str, Any] = {"name": name, "digest": {of: sha256}}
    return found | ({"annotations": dict(annotations)} if annotations else {})


def subjects(directory: Path, skip: Callable[[str], bool] = lambda name: False) -> list[Any]:
    """Return a descriptor of every file under `directory` but statement and envelope, by name.

    Args:
        directory: of which the statement will be.
        skip: as `files_under` takes it.

    Raises:
        AuditError: a file cannot be read.
    """
    found = files_under(directory, skip).plain
    try:
        return [
            resource(name, file_digest(path))
            for name, path in found.items()
            if name not in (STATEMENT, ENVELOPE)
        ]
    except OSError as error:
        raise AuditError(
            f"cannot read {error.filename}: {error.strerror}; the statement names every file."
        ) from error


def statement(
    named: Iterable[Mapping[str, Any]], predicate_type: str, predicate: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a Statement about the subjects `named` that carries its own digest.

    Raises:
        ValueError: the predicate has no canonical JSON.
    """
    made = {
        "_type": TYPE,
        "subject": list(named),
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    return made | {"predicate": {**predicate, OWN: digest(made)}}


def own_digest(value: Mapping[str, Any]) -> str:
    """Return the digest of the statement `value` without the one in it."""
    predicate = {name: inner for name, inner in value["predicate"].items() if name != OWN}
    return digest({**value, "predicate": predicate})


def begin(directory: Path) -> None:
    """Take away statement and envelope of what `directory` held before: they are of other files.

    Raises:
        AuditError: they cannot be removed.
    """
    for name in (ENVELOPE, STATEMENT):
        remove(directory / name)


def write(directory: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as the directory's statement; an envelope of an earlier one goes.

    Raises:
        AuditError: the disk refuses.
    """
    remove(directory / ENVELOPE)
    write_json(directory / STATEMENT, value)
