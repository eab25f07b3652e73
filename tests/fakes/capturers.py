"""A capture of a tiny teacher's signals, as one of several workers makes it."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.signals import Head
from distill.store import capture
from distill.store.capture import Worker
from distill.store.shard import Key, Mode
from distill.store.store import Store
from distill.text.corpus import Windows

VOCAB, WIDTH, LENGTH, WINDOWS = 300, 8, 16, 13
SHARD_TOKENS = 2 * LENGTH  # seven shards, the last half full
SETTINGS: dict[str, dict[str, Any]] = {
    "head_tail": {"head": 5, "tail": 3},
    "topk": {"head": 5},
    "sampled": {"tail": 20},
    "hidden": {},
    "text": {"logp": True},
}


class Reader:
    """A teacher whose hidden state is a mean over the context, with bias and soft cap.

    Attributes:
        asked: windows read so far.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embedding_VT = torch.randn(VOCAB, WIDTH, generator=generator)
        self.head = Head(
            4 * torch.randn(VOCAB, WIDTH, generator=generator),
            torch.randn(VOCAB, generator=generator),
            20.0,
        )
        self.asked = 0

    def hidden(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean of the embeddings since the context began."""
        self.asked += len(token_BS)
        rows = []
        for row, token_S in enumerate(token_BS):
            begun = [0] if start_BS is None else start_BS[row].nonzero()[:, 0].tolist()
            ends = [*begun[1:], len(token_S)]
            spans = [self.embedding_VT[token_S[a:b]] for a, b in zip(begun, ends, strict=True)]
            means = [x.cumsum(0) / torch.arange(1, len(x) + 1)[:, None] for x in spans]
            rows.append(torch.cat(means))
        return torch.stack(rows)


def windows(count: int = WINDOWS, seed: int = 0) -> Windows:
    """Return the first `count` of an endless row of windows."""
    generator = np.random.default_rng(seed)
    return Windows(
        tokens=generator.integers(0, VOCAB, (count, LENGTH + 1)).astype(np.int32),
        weights=(np.arange(count * LENGTH).reshape(count, LENGTH) % 5 > 0).astype(np.float32),
        sizes=np.ones((count, LENGTH)),
    )


def key(mode: Mode = "head_tail") -> Key:
    """Return the key of a capture in `mode`."""
    settings = {"shard_tokens": SHARD_TOKENS, **SETTINGS[mode]}
    return Key(mode=mode, teacher_sha256="t" * 64, vocab_size=VOCAB, settings=settings)


def captured(
    path: Path, text: Windows, mode: Mode = "head_tail", *, worker: Worker | None = None
) -> Store:
    """Capture into `path` and return the store."""
    store = Store(path, key(mode))
    capture.fill(Reader(), text, store, lambda *_: None, worker=worker or Worker())
    return store


def work(path: Path, rank: int, of: int, mode: Mode, dies_after: int | None = None) -> None:
    """Be one of several workers; kill this process once it began its shard `dies_after`."""
    begun = itertools.count(1)

    class Mortal(Reader):
        def hidden(
            self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None
        ) -> torch.Tensor:
            if next(begun) == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().hidden(token_BS, start_BS)

    torch.set_num_threads(1)
    worker = Worker.from_environment({"RANK": str(rank), "WORLD_SIZE": str(of)})
    capture.fill(Mortal(), windows(), Store(path, key(mode)), lambda *_: None, worker=worker)
