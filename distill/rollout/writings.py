"""The student's own answers on disk: one writing a shard, in stores of mode `text`.

To seal a shard costs as many digests as its store has shards, so a long run has a store for every
so many writings; the key of each has the end of the chain before it, so the last one pins all.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.signals import Text
from distill.store import chain, shard
from distill.store.shard import Key, Sequences
from distill.store.store import Store

_SHARDS = 256
_PART = "part-{:05d}"


class Writings:
    """All writings of a run, by number from 0."""

    def __init__(self, path: Path, key: Key) -> None:
        """Open or begin the writings in the directory `path`.

        Raises:
            MismatchError: they are another run's.
            StorageError: a manifest cannot be read.
        """
        self.path = path
        self.key = key
        self._stores = [self._store()]
        while len(self._stores[-1].shards) == _SHARDS:
            self._stores.append(self._store(self._stores))

    @classmethod
    def open(cls, path: Path) -> "Writings | None":
        """Open the writings in `path`, whoever's they are; None where there are none.

        Raises:
            MismatchError: a part does not follow from those before it.
            StorageError: a manifest cannot be read.
        """
        first = path / _PART.format(0)
        if not (first / chain.MANIFEST).is_file():
            return None
        key = chain.read_manifest(first)[0]
        of_part = "part", "follows"
        settings = {name: value for name, value in key.settings.items() if name not in of_part}
        return cls(path, replace(key, settings=settings))

    def _store(self, before: Sequence[Store] = ()) -> Store:
        follows = before[-1].sha256() if before else None
        settings = self.key.settings | {"part": len(before), "follows": follows}
        return Store(self.path / _PART.format(len(before)), replace(self.key, settings=settings))

    def __len__(self) -> int:
        return sum(len(store.shards) for store in self._stores)

    def sha256(self) -> str:
        """Return one digest of all of them."""
        return self._stores[-1].sha256()

    def read(self, number: int) -> Sequences:
        """Return a writing that is there.

        Raises:
            StorageError: it is gone or was changed.
        """
        store = self._stores[number // _SHARDS]
        return shard.decode_text(store.key, store.load(number % _SHARDS))

    def add(self, text: Sequences, seconds: float) -> None:
        """Keep the next writing; it is on disk, whole, when this returns.

        Raises:
            StorageError: the disk refused; those before it stand.
        """
        self._stores[-1].append(text, Text(), seconds)
        if len(self._stores[-1].shards) == _SHARDS:
            self._stores.append(self._store(self._stores))
