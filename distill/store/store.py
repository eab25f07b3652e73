"""Teacher signals on disk: safetensors shards, and a manifest that chains their digests.

A store is a directory with `manifest.json` (`chain.py`) and `shard-00000.safetensors` and so on
(`shard.py`). A shard appears whole or not at all. Beside it first lies its entry,
`shard-00012.json`, until all before it are there too and it is sealed into the manifest: workers
that make different shards need no other agreement, and a killed one leaves at most a shard to make
again. A store of another key is refused, never mixed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from audit.attest import canonical_bytes, digest, file_digest
from distill.errors import DistillError, MismatchError, StorageError
from distill.files import sync, turn, write_atomically
from distill.signals import Head, Signal
from distill.store import shard
from distill.store.chain import (
    MANIFEST,
    Entry,
    manifest,
    read_entry,
    read_manifest,
    refuse_other_key,
    shard_name,
)
from distill.store.shard import Key, Sequences, Tensors

LOCK = ".lock"


class Store:
    """One directory of signals, appended to shard by shard.

    Attributes:
        path: the directory.
        key: what it is a record of.
        shards: the entries in the manifest as it was last read or written here.
    """

    def __init__(self, path: Path, key: Key) -> None:
        """Open or begin the store in `path`; nothing is written yet.

        Raises:
            MismatchError: it holds signals of another teacher, mode or setting.
            StorageError: its manifest cannot be read.
        """
        self.path = path
        self.key = key
        self.shards = self._read_manifest()
        self._begun = False

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store in `path`, whatever it is of.

        Raises:
            StorageError: there is none, or its manifest cannot be read.
        """
        return cls(path, read_manifest(path)[0])

    def _read_manifest(self) -> list[Entry]:
        if not (self.path / MANIFEST).is_file():
            return []
        key, shards = read_manifest(self.path)
        refuse_other_key(key.as_dict(), self.key.as_dict(), self.path)
        return shards

    def append(self, text: Sequences, signal: Signal, seconds: float) -> None:
        """Add one shard at the end; it is on disk, whole and sealed, when this returns.

        Raises:
            StorageError: the disk refused; the shards before it stand.
        """
        self.put(len(self.shards), text, signal, seconds)
        self.seal()

    def put(self, number: int, text: Sequences, signal: Signal, seconds: float) -> None:
        """Write shard `number` and its entry, to be sealed once all before it are there.

        A sealed shard whose file is gone can be put again if it comes out the same.

        Raises:
            MismatchError: a sealed shard came out otherwise than it was.
            StorageError: the disk refused.
            ValueError: the signal is not of the key's mode and vocabulary, or not of this text.
        """
        tensors = shard.encode(self.key, text, signal)
        path = self.path / shard_name(number)
        try:
            self._begin()
            path.with_suffix(".json").unlink(missing_ok=True)  # it would speak of another file
            write_atomically(path, lambda p: self._write(p, tensors, number))
            sync(self.path)
            entry = Entry(
                file=path.name,
                tokens=len(text.counted_N),
                sha256=file_digest(path),
                text_sha256=text.sha256(),
                seconds=seconds,
            )
            if number >= len(self.shards):
                _write_json(path.with_suffix(".json"), asdict(entry))
        except DistillError:
            raise
        except Exception as error:  # safetensors has its own kind for a full disk
            raise _disk_error(self.path, error) from error

    def _begin(self) -> None:
        """See to it that the manifest with our key is there before any signal."""
        if not self._begun:
            with turn(self.path / LOCK):
                self.shards = self._read_manifest()
                if not (self.path / MANIFEST).is_file():
                    self._write_manifest([])
            self._begun = True

    def _write(self, path: Path, tensors: Tensors, number: int) -> None:
        """Write a shard that others may read: the library makes files private to their owner."""
        save_file(tensors, path)
        path.chmod(0o644)
        if number < len(self.shards) and file_digest(path) != self.shards[number].sha256:
            raise MismatchError(
                f"{self.path / shard_name(number)} cannot be made again as it was: the device or a "
                f"library gives other numbers; restore the file, or delete {self.path} to capture "
                "again."
            )
        sync(path)

    def entry(self, number: int) -> Entry | None:
        """Return the entry of a shard that need not be made: sealed or not, its file is there."""
        if not (self.path / shard_name(number)).is_file():
            return None
        if number < len(self.shards):
            return self.shards[number]
        return read_entry((self.path / shard_name(number)).with_suffix(".json"))

    def seal(self) -> None:
        """Take into the manifest all finished shards that follow one another without a gap.

        Any process may do it at any time.

        Raises:
            MismatchError: another process began a store of another key here.
            StorageError: the disk refused.
        """
        try:
            with turn(self.path / LOCK):
                self.shards = self._read_manifest()
                new: list[Entry] = []
                while (entry := self.entry(len(self.shards) + len(new))) is not None:
                    new.append(entry.chained(new[-1].chain if new else self.sha256()))
                if new or not (self.path / MANIFEST).is_file():
                    self._write_manifest([*self.shards, *new])
                self.shards += new
                self._remove_sealed_entries()
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _write_manifest(self, shards: Sequence[Entry]) -> None:
        _write_json(self.path / MANIFEST, manifest(self.key, shards))

    def _remove_sealed_entries(self) -> None:
        for path in self.path.glob("shard-*.json"):
            number = path.stem.removeprefix("shard-")
            if number.isdecimal() and int(number) < len(self.shards):
                path.unlink(missing_ok=True)

    @property
    def tokens(self) -> int:
        """How many positions the sealed shards hold."""
        return sum(entry.tokens for entry in self.shards)

    @property
    def seconds(self) -> float:
        """How long the sealed shards took to make, in all processes that made them."""
        return sum(entry.seconds for entry in self.shards)

    def size_bytes(self) -> int:
        """Return the size of the sealed shards on disk."""
        return sum((self.path / entry.file).stat().st_size for entry in self.shards)

    def sha256(self) -> str:
        """Return the end of the chain, one digest of key and sealed shards."""
        return self.shards[-1].chain if self.shards else digest(self.key.as_dict())

    def load(self, number: int, *, check: bool = True) -> Tensors:
        """Return the tensors of a sealed shard, mapped, its digest checked if asked.

        Raises:
            StorageError: the shard is missing or was changed.
        """
        path = self.path / shard_name(number)
        if not path.is_file() or (check and file_digest(path) != self.shards[number].sha256):
            raise StorageError(
                f"{path} is missing or was changed; delete that file and capture again to make "
                "it anew, or restore it."
            )
        return shard.load(path)

    def read(self, head: Head | None = None) -> Iterator[tuple[Sequences, Signal]]:
        """Yield text and signal of each shard after checking its digest.

        Args:
            head: the teacher's, for mode `hidden`.

        Raises:
            StorageError: a shard is missing or was changed.
        """
        for number, entry in enumerate(self.shards):
            tensors = self.load(number)
            row_N = torch.arange(entry.tokens)
            yield (
                shard.decode_text(self.key, tensors),
                shard.decode(self.key, tensors, row_N, head),
            )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    def write(partial: Path) -> None:
        partial.write_bytes(canonical_bytes(value))
        sync(partial)

    write_atomically(path, write)


def _disk_error(path: Path, error: Exception) -> StorageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StorageError(
        f"cannot write to {path}: {reason}; what was finished is kept, "
        "so free space and run the same command again."
    )
