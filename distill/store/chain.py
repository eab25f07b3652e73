"""The manifest of a store: its key, and each shard's digests, every one chained to those before.

`chain` of a shard is the digest of the chain before it and of the shard's own facts; the first
follows from the key's digest. So the last one pins key, text, signals and their order. The manifest
itself carries the digest of the rest of it, in which the seconds stand, too. One of
`spiritsafe.store/1` does not; it is read all the same.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from audit.attest import canonical_bytes, digest, parse
from distill.errors import MismatchError, StorageError
from distill.store.shard import Key

MANIFEST = "manifest.json"
SCHEMA = "spiritsafe.store/2"
_OLDER = "spiritsafe.store/1"
_OWN = "spiritsafe_sha256"


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class Entry:
    """One finished shard.

    Attributes:
        file: its name.
        tokens: positions it holds.
        sha256: of the file.
        text_sha256: of the text in it (`Sequences.sha256`).
        seconds: how long it took to make; the one fact that `chain` leaves out.
        chain: empty until it is sealed.
    """

    file: str
    tokens: PositiveInt
    sha256: str
    text_sha256: str
    seconds: float
    chain: str = ""

    def chained(self, before: str) -> "Entry":
        """Return the entry with its link, `before` being the link before it."""
        facts = [before, self.file, self.tokens, self.sha256, self.text_sha256]
        return replace(self, chain=digest(facts))


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def manifest(key: Key, shards: Sequence[Entry]) -> dict[str, Any]:
    """Return what the manifest of a store says."""
    made = {"schema": SCHEMA, "key": key.as_dict(), "shards": [asdict(entry) for entry in shards]}
    return {**made, _OWN: digest(made)}


def was_changed(path: Path) -> bool:
    """Tell whether the manifest in `path` is other than its own digest and canonical bytes say.

    Raises:
        StorageError: it cannot be read.
    """
    file = path / MANIFEST
    try:
        data = file.read_bytes()
        value = parse(data)
        rest = {name: inner for name, inner in value.items() if name != _OWN}
        if value["schema"] == _OLDER and _OWN not in value:
            return False
        return canonical_bytes(value) != data or value[_OWN] != digest(rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unread(path) from error


def _unread(path: Path) -> StorageError:
    return StorageError(
        f"{path / MANIFEST} cannot be read; restore it, or delete {path} to capture again."
    )


def read_manifest(path: Path) -> tuple[Key, list[Entry]]:
    """Return the key and the sealed shards of the store in `path`.

    Raises:
        StorageError: it cannot be read, or its chain is broken.
    """
    file = path / MANIFEST
    key, shards = parse_manifest(path)
    number = broken_link(key, shards)
    if number is not None:
        raise StorageError(
            f"{file} was changed: its chain breaks at {shard_name(number)}; restore it, or delete "
            f"{path} to capture again."
        )
    return key, shards


def parse_manifest(path: Path) -> tuple[Key, list[Entry]]:
    """Return the key and the sealed shards as `manifest.json` says, the chain unchecked.

    Raises:
        StorageError: it cannot be read.
    """
    file = path / MANIFEST
    try:
        value = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
        return Key(**value["key"]), [Entry(**row) for row in value["shards"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unread(path) from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def broken_link(key: Key, shards: Sequence[Entry]) -> int | None:
    """Return the number of the first shard whose link does not follow from what is before it."""
    link = digest(key.as_dict())
    for number, entry in enumerate(shards):
        if entry.chained(link) != entry:
            return number
        link = entry.chain
    return None


def read_entry(path: Path) -> Entry | None:
    """Return the entry beside a shard, or None while there is none, or only a part of one."""
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def refuse_other_key(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuse what the store in `path` holds unless it is what is wanted, both as in a manifest.

    Raises:
        MismatchError: it is of something else.
    """
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
