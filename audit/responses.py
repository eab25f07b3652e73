"""Answers of a model to prompts: JSON Lines `{"id", "prompt", "response"}`, plain or gzipped.

The form in which suspects, teachers and references reach the audit, and in which it keeps what it
collected itself. Other keys are allowed and ignored; `document` groups prompts cut from one text.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One answer; `document` is the prompt's own id unless the file says otherwise."""

    id: str
    prompt: str
    response: str
    document: str


def is_responses_file(path: Path) -> bool:
    """Tell by its name whether `path` is meant as a responses file."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def read(path: Path) -> list[Response]:
    """Return the answers in `path`, in order.

    Raises:
        InputError: the file is missing, empty, not UTF-8 or not gzip; a line is malformed or its
            id is given twice; names the line.
    """
    rows: list[Response] = []
    seen: dict[str, int] = {}
    # Not splitlines(), which also cuts at U+2028 and U+0085; both may stand inside JSON texts.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = _row(path, number, line)
        if row.id in seen:
            raise InputError(
                f"{path}, line {number}: id {row.id!r} was on line {seen[row.id]} already; "
                "keep one answer a prompt."
            )
        seen[row.id] = number
        rows.append(row)
    return rows


def write(path: Path, rows: Iterable[Response]) -> None:
    """Write answers to `path`, which gets its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # A lone surrogate, which UTF-8 cannot carry, is written as its JSON escape.
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for row in rows:
            line = {"id": row.id, "prompt": row.prompt, "response": row.response}
            stream.write(json.dumps({**line, "document": row.document}, ensure_ascii=False) + "\n")
    partial.replace(path)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not text.strip():
        raise InputError(f"{path} is empty; it should hold one answer a line.")
    return text


def _row(path: Path, number: int, line: str) -> Response:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: needs a JSON object, not {type(row).__name__}.")
    return Response(
        id=_string(row, "id", path, number),
        prompt=_string(row, "prompt", path, number),
        response=_string(row, "response", path, number),
        document=str(row.get("document") or row["id"]),
    )


def _string(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise InputError(f"{path}, line {number}: needs a text {key!r}.")
    return value
