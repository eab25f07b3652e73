"""Read the text through the teacher once and keep what it says, shard by shard.

Work is done in whole shards, each a function of the store's key, the text and the shard's number.
So a capture that was killed goes on with the shards that are missing, several workers share them
by number (shard n is made by worker n mod W), and all end with the same bytes.

Shapes: W windows, B sequences, S tokens, N = B S positions, T teacher hidden size, V vocabulary.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from distill.errors import MismatchError
from distill.heads import log_likelihood, logits
from distill.signals import Head, Hidden, Signal, Sparse, Text, sample, sparsify
from distill.store.shard import Key, Sequences, join
from distill.store.store import Store
from distill.text.corpus import Windows

# Sequences the teacher reads at once, and elements of logits that exist at once: 32 MiB in
# float32, up to which glibc keeps memory instead of giving it back and asking for it anew.
_BATCH = 8
_ELEMENTS = 2**23

Progress = Callable[[str, int, int, str], None]
Ask = Callable[[Windows, int], Signal]


class Teacher(Protocol):
    """A model whose logits can be had at every position of a text."""

    @property
    def head(self) -> Head:
        """What turns its hidden states into logits."""
        ...

    def hidden(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states `[B, S, T]`; the context begins anew at `start_BS`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One of several processes that fill a store together, told apart by rank."""

    rank: int = 0
    of: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Worker":
        """Return what `torchrun` says: RANK and WORLD_SIZE, or the only worker without them.

        Raises:
            MismatchError: they are not a rank and a size.
        """
        rank, of = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and of.isdecimal() and int(rank) < int(of)):
            raise MismatchError(
                f"RANK is {rank!r} and WORLD_SIZE is {of!r}, which name no worker; set both as "
                "torchrun does, or neither."
            )
        return cls(rank=int(rank), of=int(of))


def fill(
    teacher: Teacher,
    windows: Windows,
    store: Store,
    progress: Progress,
    *,
    stage: str = "capture",
    worker: Worker = Worker(),
) -> bool:
    """Make this worker's missing shards of `store`, at every position of `windows`.

    Windows beyond the sealed ones are appended, so a text may grow.

    Args:
        teacher: the one that the store's key names, in the dtype it names.
        windows: the text; the teacher reads all tokens of a window but the last.
        store: its key's settings hold `shard_tokens` and what the mode needs: `head` and `tail`
            for `head_tail`, `head` for `topk`, `tail` for `sampled`; `text` is of the labels'
            log-probabilities.
        progress: told of this worker's share.
        stage: what it is called there.
        worker: which shards to make.

    Returns:
        Whether the store now holds the whole text; other workers may be at theirs still.

    Raises:
        MismatchError: the store holds signals on another text.
        StorageError: the disk refused; finished shards are kept.
    """
    return keep(asking(teacher, store.key), windows, store, progress, stage=stage, worker=worker)


def asking(teacher: Teacher, key: Key) -> Ask:
    """Return what `keep` asks of a teacher for a store of this key."""

    def ask(windows: Windows, number: int) -> Signal:
        with torch.inference_mode():
            return _ask(teacher, key, windows, number)

    return ask


def keep(
    ask: Ask,
    windows: Windows,
    store: Store,
    progress: Progress,
    *,
    stage: str = "capture",
    worker: Worker = Worker(),
) -> bool:
    """Do what `fill` does, with what `ask` says of some windows and their shard's number."""
    store.seal()  # what another call finished; from here on it is known where shards begin
    parts = _parts(store, windows)
    if store.entry(len(parts)) is not None:
        raise _other_text(store)  # there was more of it
    mine = range(worker.rank, len(parts), worker.of)
    length = windows.weights.shape[1]
    total, done = sum(len(parts[number]) for number in mine) * length, 0
    progress(stage, done, total, "tokens")
    for number in mine:
        part = windows.take(np.asarray(parts[number]))
        text = Sequences.windows(part)
        if not _has(store, number, text):
            began = time.perf_counter()
            signal = ask(part, number)
            store.put(number, text, signal, time.perf_counter() - began)
            # The manifest is as long as the store, so it is not written for every shard.
            if number >= len(store.shards) * 17 // 16:
                store.seal()
        done += part.weights.size
        progress(stage, done, total, "tokens")
    store.seal()
    return len(store.shards) == len(parts)


def _parts(store: Store, windows: Windows) -> list[range]:
    """Return each shard's windows: the sealed ones', then full shards to the text's end."""
    count, length = windows.weights.shape
    per_shard = max(1, store.key.settings["shard_tokens"] // length)
    ends = [0]
    for entry in store.shards:
        if entry.tokens % length or ends[-1] + entry.tokens // length > count:
            raise _other_text(store)
        ends.append(ends[-1] + entry.tokens // length)
    if ends[-1] < count:
        ends += [*range(ends[-1] + per_shard, count, per_shard), count]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def _has(store: Store, number: int, text: Sequences) -> bool:
    """Tell whether a shard is there already.

    Raises:
        MismatchError: it is there, but of another text.
    """
    sealed = store.shards[number] if number < len(store.shards) else None
    entry = store.entry(number)
    known = sealed or entry
    if known is not None and known.text_sha256 != text.sha256():
        raise _other_text(store)
    return entry is not None


def _other_text(store: Store) -> MismatchError:
    return MismatchError(
        f"{store.path} holds signals on another text; set signal.path to another directory, or "
        "delete this one to capture again."
    )


def _ask(teacher: Teacher, key: Key, windows: Windows, number: int) -> Signal:
    """Return what the teacher says at all positions of one shard's windows."""
    states = _states(teacher, windows)
    if key.mode == "hidden":
        return Hidden(torch.cat([states_NT.cpu() for states_NT in states]), teacher.head)
    if key.mode == "text":
        label_N = torch.from_numpy(windows.tokens[:, 1:].astype(np.int64)).flatten()
        states_NT = torch.cat(list(states))
        return Text(log_likelihood(states_NT, teacher.head, label_N.to(states_NT.device)))
    generator = torch.Generator().manual_seed(number)
    rows = max(1, _ELEMENTS // len(teacher.head.weight_VT))
    return join(
        [
            _thin(logits(rows_NT, teacher.head), key, generator)
            for states_NT in states
            for rows_NT in states_NT.split(rows)
        ]
    )


def _states(teacher: Teacher, windows: Windows) -> Iterator[torch.Tensor]:
    """Yield the last hidden states `[N, T]` of a few windows at a time."""
    token_WS = torch.from_numpy(windows.tokens[:, :-1].astype(np.int64))
    start_WS = torch.from_numpy(windows.starts)
    apart = bool(start_WS[:, 1:].any())
    for token_BS, start_BS in zip(token_WS.split(_BATCH), start_WS.split(_BATCH), strict=True):
        yield teacher.hidden(token_BS, start_BS if apart else None).flatten(0, 1)


def _thin(logits_NV: torch.Tensor, key: Key, generator: torch.Generator) -> Sparse:
    """Keep of the logits what the mode keeps."""
    settings = key.settings
    match key.mode:
        case "head_tail":
            head, tail = settings["head"], settings["tail"]
            return sparsify(logits_NV, head=head, tail=tail, generator=generator)
        case "topk":
            return sparsify(logits_NV, head=settings["head"], tail=0, generator=generator)
        case "sampled":
            return sample(logits_NV, draws=settings["tail"], generator=generator)
        case _:
            raise AssertionError(f"logits are not kept in mode {key.mode!r}")
