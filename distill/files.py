"""Files of a run: a sentence for what is wrong, written whole or not at all, locked in turn."""

import fcntl
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.attest import LARGEST, canonical_bytes, parse
from audit.report.reveal import reveal_halves
from distill.errors import InputError, StorageError


def read_text(path: Path) -> str:
    """Return a user's text file.

    Raises:
        InputError: the file is missing, a directory, empty or not UTF-8; says which.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory; name a file.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty; put something in it or name another file.")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, or an empty one when there is no such file.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        value = parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StorageError(f"{path} is damaged; delete it and run again.") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} is damaged: it holds no object; delete it and run again.")
    return value


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically.

    Raises:
        StorageError: the disk refused; what stood there still stands.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically.

    Raises:
        StorageError: the disk refused; what stood there still stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda partial: partial.write_bytes(data))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was finished is kept, "
            "so free space and run the same command again."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value`, made portable, to `path` atomically: its canonical bytes and nothing else."""
    write_bytes(path, canonical_bytes(portable(value)))


def portable(value: Any) -> Any:
    """Return `value` as canonical JSON (RFC 8785) can hold it, and as it is read back.

    A tuple becomes a list, a number that is not finite none, a whole number beyond 2**53 - 1 the
    nearest float, half of a surrogate pair its code point in brackets.
    """
    match value:
        case Mapping():
            return {str(name): portable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [portable(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case float() if value.is_integer() and abs(value) <= LARGEST:
            return int(value)
        case int() if abs(value) > LARGEST:
            return float(value)
    return reveal_halves(value)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a neighbouring file, then rename it to `path`."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def turn(lock: Path, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that no other process holds; a killed one lets go by itself.

    Args:
        lock: a file, made where it is missing and left there.
        wait: called if another process holds it, before it is waited for.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
