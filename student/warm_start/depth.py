"""Fewer layers: those that turn the residual least go (ShortGPT, arXiv 2403.03853, section 2.2).

Shapes: N tokens, D hidden size.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from student.warm_start.calibration import Seen
from student.warm_start.dense import Dense


def influence(seen: Seen) -> torch.Tensor:
    """Return by how much each layer turns the residual: 1 less the mean cosine, `[layers]`."""
    ends = zip(seen.before[:-1], seen.before[1:], strict=True)
    return torch.stack([1 - F.cosine_similarity(a, b, dim=1).double().mean() for a, b in ends])


def prune(dense: Dense, seen: Seen, count: int) -> tuple[Dense, Seen]:
    """Return the teacher without all but `count` layers, and what those saw.

    What follows a layer is then what the next one that is kept read: a fit of the layer's output
    (`compensation`) takes on what was dropped between them.
    """
    kept = sorted(influence(seen).argsort(descending=True)[:count].tolist())
    return (
        replace(
            dense,
            numbers=replace(dense.numbers, layers=count),
            layers=tuple(dense.layers[at] for at in kept),
        ),
        replace(
            seen,
            before=tuple(seen.before[at] for at in (*kept, len(dense.layers))),
            middle=tuple(seen.middle[at] for at in kept),
        ),
    )
