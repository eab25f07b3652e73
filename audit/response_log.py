"""`responses.jsonl`: every answer of a served model, whole, under a key that pins the question.

Append-only: one line for each finished request, forced to the disk before it counts. A question
whose key is there is never asked again. A last line torn by a crash is dropped; any other line
that cannot be read is an error, because the log is evidence. One process writes at a time.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit.attest import digest, parse
from audit.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One finished request.

    Attributes:
        key: digest of everything that determines the question.
        url: of the endpoint.
        asked: path below the url, request body and sample index.
        model: the id the answer gives itself, or None.
        usage: what the answer says was used, or None.
        date: the server's `Date` header, or None.
        received: when it was here, UTC.
        seconds: from sending to the last byte, of the attempt that succeeded.
        attempts: how often it was sent.
        body: the answer as it came, to the byte where it is UTF-8; a key in it is blotted out.
    """

    key: str
    url: str
    asked: dict[str, Any]
    model: str | None
    fingerprint: str | None
    request_id: str | None
    usage: dict[str, Any] | None
    date: str | None
    received: str
    seconds: float
    attempts: int
    body: str


def key_of(url: str, asked: Mapping[str, Any]) -> str:
    """Return what an answer of the endpoint at `url` is filed under."""
    return digest({"url": url, **asked})


def misfiled(path: Path) -> tuple[int, list[int]]:
    """Return how many lines a log has, and the numbers of those not filed under what they asked.

    Raises:
        OSError: it cannot be read.
    """
    number, strange = 0, []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                entry = parse(line)
                filed = key_of(entry["url"], entry["asked"]) == entry["key"]
            except (ValueError, TypeError, KeyError):
                filed = False
            if not filed:
                strange.append(number)
    return number, strange


class ResponseLog:
    """The log in one file; a look-up reads the line it needs and nothing else."""

    def __init__(self, path: Path) -> None:
        """Open or begin the log.

        Raises:
            InputError: another process writes to it, or a line is damaged.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int, int]] = {}  # line from 1, first byte, bytes
        self._stream = path.open("a+b", buffering=0)
        try:
            self._hold()
            self._lines = self._scan()
        except BaseException:
            self._stream.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries, in the order in which they were finished."""
        for key in list(self._places):
            yield self.find(key)

    def close(self) -> None:
        """Let other processes write."""
        self._stream.close()

    def line(self, key: str) -> int:
        """Return the number of the line that holds `key`, from 1."""
        return self._places[key][0]

    def find(self, key: str) -> Entry:
        """Return the entry of a key that is there."""
        _, start, length = self._places[key]
        return Entry(**json.loads(os.pread(self._stream.fileno(), length, start)))

    def append(self, entry: Entry) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises:
            OSError: the disk refused; the entries before it stand.
        """
        text = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        line = text.encode("utf-8", errors="backslashreplace")
        with self._lock:
            start = self._stream.seek(0, os.SEEK_END)
            try:
                self._write(line)
            except OSError:
                self._stream.truncate(start)  # another thread's line must not follow half of one
                raise
            self._lines += 1
            self._places[entry.key] = (self._lines, start, len(line))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) :]
        os.fsync(self._stream.fileno())

    def _hold(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{self.path} is being written by another process; wait for it, or name another "
                "log."
            ) from error

    def _scan(self) -> int:
        """Note where each entry is; complete or cut off a torn last line; return the lines."""
        start = number = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                whole = line.endswith(b"\n")
                try:
                    key = Entry(**json.loads(line)).key
                except (ValueError, TypeError) as error:
                    if not whole:
                        self._stream.truncate(start)
                        return number - 1
                    raise InputError(
                        f"{self.path}, line {number}: no finished request; the log is evidence "
                        "and was changed, so restore it or name another."
                    ) from error
                self._places[key] = (number, start, len(line))
                start += len(line)
                if not whole:  # all of it arrived but the end of the line
                    self._write(b"\n")
                    break
        return number
