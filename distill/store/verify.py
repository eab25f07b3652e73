"""Is a store what its manifest says? Looks at every byte, and never raises on damage."""

from dataclasses import dataclass
from pathlib import Path

from audit.attest import file_digest
from distill.errors import StorageError
from distill.store import shard
from distill.store.chain import (
    MANIFEST,
    Entry,
    broken_link,
    parse_manifest,
    shard_name,
    was_changed,
)
from distill.store.shard import Key
from distill.store.store import LOCK


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreReport:
    """What was found in a store.

    Attributes:
        path: the store.
        problem: why the manifest cannot be used, or empty.
        sha256: the end of the chain as the manifest says, to be compared with the one a run's
            record names; empty without one.
        intact: names of shards that are what the manifest says.
        broken: names of shards that are not, and why.
        missing: names of shards that the manifest says are there.
        extra: other files, relative to `path`; a killed or still running capture leaves some.
        tokens: positions in intact shards.
        bytes: of intact shards.
    """

    path: Path
    problem: str = ""
    sha256: str = ""
    intact: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    tokens: int = 0
    bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether every sealed shard is there and intact, and so is the chain."""
        return not (self.problem or self.broken or self.missing)


def verify(path: Path) -> StoreReport:
    """Check the manifest, its chain, every shard's digest, and every shard's own text."""
    try:
        key, shards = parse_manifest(path)
        changed = was_changed(path)
    except StorageError as error:
        return StoreReport(path=path, problem=str(error), extra=_extra(path, []))
    number = broken_link(key, shards)
    problem = f"the chain breaks at {shard_name(number)}" if number is not None else ""
    reasons = {entry.file: _reason(path, key, entry) for entry in shards}
    intact = [entry for entry in shards if reasons[entry.file] == ""]
    return StoreReport(
        path=path,
        problem=problem or ("its manifest was changed" if changed else ""),
        sha256=shards[-1].chain if shards else "",
        intact=tuple(entry.file for entry in intact),
        broken=tuple((file, reason) for file, reason in reasons.items() if reason),
        missing=tuple(file for file, reason in reasons.items() if reason is None),
        extra=_extra(path, shards),
        tokens=sum(entry.tokens for entry in intact),
        bytes=sum((path / entry.file).stat().st_size for entry in intact),
    )


def _reason(path: Path, key: Key, entry: Entry) -> str | None:
    """Return what is wrong with a shard, empty for nothing, None where there is no file."""
    file = path / entry.file
    try:
        if not file.is_file():
            return None
        if file_digest(file) != entry.sha256:
            return "its bytes were changed"
        tensors = shard.load(file)
        text = shard.decode_text(key, tensors)
        if len(text.counted_N) != entry.tokens:
            return f"it holds {len(text.counted_N)} positions, not {entry.tokens}"
        if text.sha256() != entry.text_sha256:
            return "its text is not the one that is named"
    except Exception as error:  # whatever damage does to a reader
        return f"it cannot be read: {error}"
    return ""


def _extra(path: Path, shards: list[Entry]) -> tuple[str, ...]:
    known = {MANIFEST, LOCK, *(entry.file for entry in shards)}
    files = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return tuple(sorted(name for name in files if name not in known))
