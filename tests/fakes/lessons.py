"""Seeded text and a seeded teacher's signal, for tests of training that need no teacher."""

import numpy as np
import torch

from distill.corpus import Windows
from distill.signals import Sparse, sparsify


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
