"""Teacher signals on disk: safetensors shards and an index that pins them by digest.

A store is a directory with `index.json` and `shard-00000.safetensors` and so on. The index names
the mode (`head_tail` or `hidden`), a key (what teacher said it of what text, in which settings)
and each finished shard's digest. A shard appears whole or not at all, so a killed capture goes on
with the next shard; a store whose key differs is refused, never mixed.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from audit.attest import digest, file_digest
from distill.errors import MismatchError, StorageError
from distill.signals import Hidden, Sparse

SCHEMA = "spiritsafe.signals/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What a store is a record of; two stores with equal keys hold the same signals."""

    mode: Literal["head_tail", "hidden"]
    teacher_sha256: str
    text_sha256: str
    vocab_size: int
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the key as it stands in `index.json`."""
        return {
            "mode": self.mode,
            "teacher_sha256": self.teacher_sha256,
            "text_sha256": self.text_sha256,
            "vocab_size": self.vocab_size,
            "settings": self.settings,
        }


class Store:
    """One directory of signals, appended to shard by shard."""

    def __init__(self, path: Path, key: Key) -> None:
        """Open or begin the store in `path`.

        Raises:
            MismatchError: it holds signals of another teacher, text or setting.
            StorageError: its index cannot be read.
        """
        self.path = path
        self.key = key
        self.index_path = path / "index.json"
        if self.index_path.is_file():
            self.shards = self._read_index()
        else:
            self.shards = []

    def _read_index(self) -> list[dict[str, Any]]:
        try:
            index = json.loads(self.index_path.read_text(encoding="utf-8"))
            found, shards = index["key"], index["shards"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self.index_path} cannot be read; delete {self.path} to capture again."
            ) from error
        _refuse_other_key(found, self.key.as_dict(), self.path)
        return list(shards)

    def append(self, tensors: dict[str, torch.Tensor], seconds: float) -> None:
        """Add one shard, which took `seconds` to make; it is on disk, whole, when this returns.

        Raises:
            StorageError: the disk refused; the shards before it stand.
        """
        name = f"shard-{len(self.shards):05d}.safetensors"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / name, lambda p: _save(tensors, p))
            tokens = next(iter(tensors.values())).shape[0]
            sha256 = file_digest(self.path / name)
            shard = {"file": name, "tokens": tokens, "sha256": sha256, "seconds": seconds}
            shards = [*self.shards, shard]
            index = {"schema": SCHEMA, "key": self.key.as_dict(), "shards": shards}
            text = json.dumps(index, indent=1)
            write_atomically(self.index_path, lambda p: p.write_text(text, encoding="utf-8"))
        except Exception as error:
            raise _disk_error(self.path, error) from error
        self.shards = shards

    @property
    def tokens(self) -> int:
        """How many positions the finished shards hold."""
        return sum(int(shard["tokens"]) for shard in self.shards)

    @property
    def seconds(self) -> float:
        """How long the finished shards took to make, in all processes that made them."""
        return sum(float(shard["seconds"]) for shard in self.shards)

    def size_bytes(self) -> int:
        """Return the size of the finished shards on disk."""
        return sum((self.path / shard["file"]).stat().st_size for shard in self.shards)

    def sha256(self) -> str:
        """Return one digest of key and shards."""
        return digest([self.key.as_dict(), *(shard["sha256"] for shard in self.shards)])

    def read(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the tensors of each shard after checking its digest.

        Raises:
            StorageError: a shard is missing or was changed.
        """
        for shard in self.shards:
            path = self.path / shard["file"]
            if not path.is_file() or file_digest(path) != shard["sha256"]:
                raise StorageError(
                    f"{path} is missing or was changed; delete {self.path} to capture again."
                )
            yield load_file(path)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a neighbouring file, then rename it to `path`."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a shard that others may read: the library makes files private to their owner."""
    save_file(tensors, path)
    path.chmod(0o644)


def pack_sparse(signal: Sparse, vocab_size: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a `head_tail` shard: 16-bit ids where the vocabulary allows them."""
    ids = torch.uint16 if vocab_size <= 2**16 else torch.int32
    return {
        "head_ids": signal.head_ids_NH.cpu().to(ids),
        "head_p": signal.head_p_NH.cpu().half(),
        "tail_ids": signal.tail_ids_NR.cpu().to(ids),
        "tail_mass": signal.tail_mass_N.cpu(),
        "entropy": signal.entropy_N.cpu(),
    }


def read_sparse(store: Store) -> Sparse:
    """Return all signals of a `head_tail` store, on the CPU, packed as they are on disk."""
    parts = list(store.read())
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Sparse(
        joined["head_ids"],
        joined["head_p"],
        joined["tail_ids"],
        joined["tail_mass"],
        joined["entropy"],
    )


def rows(signal: Sparse, index_N: torch.Tensor, device: torch.device) -> Sparse:
    """Return the signals at `index_N`, unpacked to int64 and float32 on `device`."""
    return Sparse(
        signal.head_ids_NH[index_N].long().to(device),
        signal.head_p_NH[index_N].float().to(device),
        signal.tail_ids_NR[index_N].long().to(device),
        signal.tail_mass_N[index_N].to(device),
        signal.entropy_N[index_N].to(device),
    )


def read_hidden(store: Store) -> Hidden:
    """Return all states of a `hidden` store."""
    return Hidden(torch.cat([part["states"] for part in store.read()]))


def _refuse_other_key(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    if found == wanted:
        return
    if found.get("vocab_size") != wanted["vocab_size"]:
        raise MismatchError(
            f"{path} holds signals over {found.get('vocab_size')} tokens, but this run's "
            f"vocabulary has {wanted['vocab_size']}; set signal.path to another directory."
        )
    differs = ", ".join(name for name in wanted if found.get(name) != wanted[name])
    raise MismatchError(
        f"{path} holds signals of a different {differs}; set signal.path to another directory, "
        "or delete this one to capture again."
    )


def _disk_error(path: Path, error: Exception) -> StorageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StorageError(
        f"cannot write to {path}: {reason}; what was finished is kept, "
        "so free space and run the same command again."
    )
