"""Digests: what pins a file, a directory or a JSON object to the record that names it.

A JSON object is hashed over its canonical bytes, so that writing it again with other spacing or
another key order leaves its digest as it was. All digests are SHA-256 in lower-case hex.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_bytes(obj: Any) -> bytes:
    """Return `obj` as JSON bytes that do not depend on key order or spacing.

    Keys are sorted, there are no spaces, the encoding is UTF-8. A lone surrogate, which UTF-8
    cannot carry, is written as its JSON escape and so survives a round trip.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value has no JSON form.
    """
    text = json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", errors="backslashreplace")


def digest(obj: Any) -> str:
    """Return the SHA-256 of `canonical_bytes(obj)`."""
    return hashlib.sha256(canonical_bytes(obj)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file at `path`, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """Return one SHA-256 for every file under the directory `path`, hidden files included.

    It is `digest` of the list of `[name, file digest]` pairs, sorted by name; names are relative
    to `path` with forward slashes. A link to a file counts as that file. Empty directories have
    no entry.

    Raises:
        NotADirectoryError: `path` is not a directory.
        ValueError: an entry is neither a file nor a directory, or is a link to a directory.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a directory")
    names = sorted(entry.relative_to(path).as_posix() for entry in _files(path))
    return digest([[name, file_digest(path / name)] for name in names])


def _files(directory: Path) -> list[Path]:
    found: list[Path] = []
    for entry in directory.iterdir():
        if entry.is_file():
            found.append(entry)
        elif entry.is_dir() and not entry.is_symlink():
            found.extend(_files(entry))
        else:
            # Leaving it out would let a tree change without its digest changing.
            raise ValueError(f"{entry} cannot be hashed: not a file or a plain directory")
    return found
