"""Digests: what pins a file, a directory or a JSON object to the record that names it.

A JSON object is hashed over its canonical bytes, those of the JSON Canonicalization Scheme (RFC
8785), so that writing it again with other spacing or another key order leaves its digest as it was,
and any other tool comes to the same digest. What the scheme cannot carry (I-JSON, RFC 7493) is
refused: a number that is not finite, a whole number beyond 2**53 - 1, half of a surrogate pair.
All digests are SHA-256 in lower-case hex.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import rfc8785

LARGEST = 2**53 - 1  # whole number that every reader of JSON keeps exact


def canonical_bytes(obj: Any) -> bytes:
    """Return `obj` as the JSON bytes of RFC 8785.

    Raises:
        ValueError: a value has no such form; says which rule it breaks.
    """
    try:
        return rfc8785.dumps(obj)
    except RecursionError as error:
        raise ValueError("no canonical JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"no canonical JSON (RFC 8785): {error}.") from error


def parse(data: bytes) -> Any:
    """Return what JSON bytes say; canonical bytes come back from `canonical_bytes` as they were.

    A whole number beyond `LARGEST` is read as the float that RFC 8785 writes without an exponent.

    Raises:
        ValueError: they are not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(data.decode("utf-8"), parse_int=_number, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _number(digits: str) -> int | float:
    # Sixteen digits hold every number up to 2**53 - 1; thousands of them would take int() long.
    value = int(digits) if len(digits) < 18 else LARGEST + 1
    return value if abs(value) <= LARGEST else float(digits)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


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
        ValueError: an entry is neither a file nor a directory, or is a link to a directory; or
            its name is not UTF-8.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a directory")
    names = sorted(entry.relative_to(path).as_posix() for entry in _files(path))
    for name in names:
        if any("\ud800" <= unit <= "\udfff" for unit in name):
            raise ValueError(f"{path} cannot be hashed: the name {name!a} in it is not UTF-8")
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
