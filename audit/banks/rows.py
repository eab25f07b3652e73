"""Rows of the files other tools write: JSON Lines, packed or not, or one JSON list of objects.

A row knows where it stands, so that whatever is wrong in it is said with its place.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import InputError
from audit.responses import Response


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One object of a file and its place there, for errors."""

    where: str
    row: dict[str, Any]

    def error(self, what: str) -> InputError:
        """Return the error that says `what` of this row."""
        return InputError(f"{self.where}: {what}")

    def dig(self, *steps: str | int) -> Any:
        """Return what lies under these keys and places.

        Raises:
            InputError: nothing lies there.
        """
        value: Any = self.row
        for step in steps:
            try:
                value = _inner(value, step)
            except KeyError:
                path = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
                raise self.error(f"has no {path.removeprefix('.')}.") from None
        return value

    def text(self, value: Any) -> str:
        """Return a text however the formats wrap it; of several samples the first; null is empty.

        Raises:
            InputError: there is no text in it.
        """
        while not isinstance(value, str):
            match value:
                case None | []:
                    return ""
                case [first, *_] | {"content": first} | {"answer": first} | {"text": first}:
                    value = first
                case _:
                    raise self.error(f"needs a text, not {type(value).__name__}.")
        return value

    def own_id(self, *keys: str) -> str:
        """Return the id under the first of `keys` that is there."""
        for key in keys:
            value = self.row.get(key)
            if isinstance(value, str | int) and str(value).strip():
                return str(value)
        raise self.error(f"has no {' or '.join(keys)}.")


def prompt_id(prompt: str) -> str:
    """Return the first 12 hex digits of the SHA-256 of a prompt, its id in a bank."""
    # A lone surrogate counts as its JSON escape.
    data = prompt.encode("utf-8", errors="backslashreplace")
    return hashlib.sha256(data).hexdigest()[:12]


def answer_to(prompt: str, response: str, own_id: str = "") -> Response:
    """Return an answer under its prompt's id, or under the format's `own_id` without a prompt."""
    name = prompt_id(prompt) if prompt else own_id
    return Response(id=name, prompt=prompt, response=response, document=name)


def items(path: Path, having: bytes = b"") -> Iterator[Item]:
    """Yield the objects in a `.json` list or a `.jsonl[.gz]` file, in order.

    Args:
        path: the file.
        having: lines of JSON without these bytes are passed over unread.

    Raises:
        InputError: the file or a line of it cannot be read, or something else than an object is
            in it.
    """
    if path.name.endswith(".json"):
        rows = _json(str(path), b"".join(lines(path)))
        if not isinstance(rows, list):
            raise InputError(f"{path}: needs a JSON list of answers, not {type(rows).__name__}.")
        numbered = ((f"{path}, item {number}", row) for number, row in enumerate(rows, 1))
    else:
        places = ((f"{path}, line {number}", line) for number, line in enumerate(lines(path), 1))
        numbered = (
            (where, _json(where, line)) for where, line in places if having in line and line.strip()
        )
    for where, row in numbered:
        if not isinstance(row, dict):
            raise InputError(f"{where}: needs a JSON object, not {type(row).__name__}.")
        yield Item(where=where, row=row)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, which is unpacked if its name ends in `.gz`.

    Raises:
        InputError: the file is missing or damaged.
    """
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rb") as stream:
            yield from stream
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def _inner(value: Any, step: str | int) -> Any:
    """Return what `value` holds under a key or at a place; a text is not taken apart."""
    match value, step:
        case list(), int() if step < len(value):
            return value[step]
        case dict(), str() if step in value:
            return value[step]
    raise KeyError(step)


def _json(where: str, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start}); convert the file.") from error
    except ValueError as error:  # a number of thousands of digits is one, too
        raise InputError(f"{where}: not valid JSON ({error}).") from error
    except RecursionError as error:
        raise InputError(f"{where}: lists are nested too deep to be an answer.") from error
