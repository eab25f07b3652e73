"""Seeded text and a seeded teacher's signal, for tests of training that need no teacher."""

from dataclasses import dataclass

import numpy as np
import torch

from distill.batches import Reading, Route, WindowRows
from distill.config import RunConfig
from distill.signals import Signal, Sparse, sparsify
from distill.text.corpus import Windows


@dataclass(frozen=True, slots=True)
class Heard:
    """A source that has its signal in memory, on the CPU."""

    signal: Signal

    @property
    def kind(self) -> type[Signal]:
        """What kind of signal it gives."""
        return type(self.signal)

    def at(self, row_M: torch.Tensor, device: torch.device) -> Signal:
        """Return what is said at these rows; only what is sparse can change its device."""
        said = self.signal.take(row_M)
        return on(said, device) if isinstance(said, Sparse) else said


def on(said: Sparse, device: torch.device) -> Sparse:
    """Return the signal on `device`."""
    return Sparse(
        said.head_ids_NH.to(device),
        said.head_p_NH.to(device),
        said.tail_ids_NR.to(device),
        said.tail_mass_N.to(device),
        said.entropy_N.to(device),
    )


def reading(windows: Windows, signal: Signal | None, config: RunConfig) -> Reading:
    """Return the course of `config` over `windows`, taught by `signal` at every position."""
    size, seed = config.train.batch_size, config.seed
    if signal is None:
        return Reading(windows, size=size, seed=seed)
    count, length = windows.weights.shape
    rows = WindowRows(np.arange(count) * length)
    route = Route(voices=((1.0, Heard(signal), rows),))
    return Reading(windows, [route], size=size, seed=seed)


def random_windows(count: int, length: int, vocab: int) -> Windows:
    """Return `count` windows of seeded random text; every seventh target does not count."""
    tokens = np.random.default_rng(0).integers(3, vocab, (count, length + 1), dtype=np.int32)
    weights = np.ones((count, length), dtype=np.float32)
    weights[:, ::7] = 0
    return Windows(tokens=tokens, weights=weights, sizes=np.ones((count, length)))


def random_signal(windows: Windows, vocab: int) -> Sparse:
    """Return what a seeded random teacher says at every position of `windows`, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(windows.weights.size, vocab, generator=generator)
    return sparsify(logits, head=8, tail=4, generator=generator)
