"""What one step reads: a stream of documents, and which teacher speaks of which positions.

A batch is a function of seed and step, so a resumed run takes the very steps an uninterrupted one
would have taken.

Shapes: W windows, S positions a window, N positions of a batch, M of them that count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from distill.signals import Dense, Hidden, Mixture, Signal
from distill.text.corpus import Windows

Array = npt.NDArray[np.int64]


class Source(Protocol):
    """Where a teacher's signal on some text is had from: a store, or what was just asked."""

    @property
    def kind(self) -> type[Signal]:
        """What kind of signal it gives."""
        ...

    def at(self, row_M: torch.Tensor, device: torch.device) -> Signal:
        """Return what is said at these rows (int64, on the CPU), on `device`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """One teacher's share in a mixture, and the rows of its source that belong to a part.

    Attributes:
        weight: above 0; the weights of a part sum to 1.
        source: the teacher's signals.
        row_M: int64, on the CPU.
    """

    weight: float
    source: Source
    row_M: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Positions that count and that the same teachers speak of.

    Attributes:
        at_M: int64 places in the stream, on the CPU, increasing.
        voices: none where the text alone teaches.
        own: whether the student wrote them itself.
    """

    at_M: torch.Tensor
    voices: tuple[Voice, ...] = ()
    own: bool = False

    @property
    def kind(self) -> type[Signal] | None:
        """What kind of signal the teachers give; None without one."""
        if not self.voices:
            return None
        return self.voices[0].source.kind if len(self.voices) == 1 else Mixture

    def signal(self, device: torch.device) -> Signal | None:
        """Return what the teachers say at all positions of the part."""
        if not self.voices:
            return None
        said = [(voice.weight, voice.source.at(voice.row_M, device)) for voice in self.voices]
        if len(said) == 1:
            return said[0][1]
        parts = tuple((w, signal) for w, signal in said if isinstance(signal, Hidden | Dense))
        assert len(parts) == len(said), "the config allows mixtures of exact signals alone"
        return Mixture(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's text.

    Attributes:
        token_N: int64 inputs, one document after another.
        lengths: of the documents.
        label_N: int64 next tokens; anything where none counts.
        parts: disjoint; positions in none of them do not count.
        spent: seconds it took to make, where a model worked: `generation`, `teacher`.
        facts: what the step's row of metrics should tell of it besides.
    """

    token_N: torch.Tensor
    lengths: tuple[int, ...]
    label_N: torch.Tensor
    parts: tuple[Part, ...]
    spent: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)


class Rows(Protocol):
    """Where in a source the positions of windows are."""

    def of(self, window_N: Array, inner_N: Array) -> Array:
        """Return the row of each position, -1 where the source says nothing.

        Args:
            window_N: int64, which window.
            inner_N: int64, which position in it.
        """
        ...


@dataclass(frozen=True, slots=True)
class WindowRows:
    """A row a position, window after window.

    Attributes:
        first_W: int64, the row of a window's first position; -1 for windows that are not there.
    """

    first_W: Array

    def of(self, window_N: Array, inner_N: Array) -> Array:
        """Return the row of each position, -1 where the source says nothing."""
        first_N = self.first_W[window_N]
        return np.where(first_N >= 0, first_N + inner_N, -1)


@dataclass(frozen=True, slots=True)
class PickedRows:
    """A row for each of a few positions.

    Attributes:
        place_P: int64, increasing: window times length, and the position in it.
        length: of a window.
    """

    place_P: Array
    length: int

    def of(self, window_N: Array, inner_N: Array) -> Array:
        """Return the row of each position, -1 where the source says nothing."""
        if not len(self.place_P):
            return np.full(len(window_N), -1)
        place_N = window_N * self.length + inner_N
        row_N = np.minimum(np.searchsorted(self.place_P, place_N), len(self.place_P) - 1)
        return np.where(self.place_P[row_N] == place_N, row_N, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Who teaches the positions that all its voices speak of.

    Attributes:
        voices: `(weight, source, rows)`, one a teacher.
    """

    voices: tuple[tuple[float, Source, Rows], ...]


class Reading:
    """The text of a run, a seeded shuffle of all windows an epoch."""

    def __init__(
        self,
        windows: Windows,
        routes: Sequence[Route] = (),
        *,
        size: int = 1,
        seed: int = 0,
    ) -> None:
        """Take `size` windows a step.

        Args:
            windows: the text.
            routes: who teaches which windows; those of no route are read without a teacher.
            size: windows a step.
            seed: of the shuffles.
        """
        self.windows = windows
        self.routes = tuple(routes)
        self.size = size
        self.seed = seed

    def batch(self, step: int, size: int | None = None) -> Batch:
        """Return the batch of `step` (from 1), or its first `size` windows."""
        return self.of(self.chosen(step)[:size])

    def of(self, chosen_B: npt.NDArray[np.int64]) -> Batch:
        """Return these windows as a batch."""
        windows, length = self.windows.take(chosen_B), self.windows.weights.shape[1]
        counts_N = windows.weights.reshape(-1) > 0
        number_N = np.repeat(chosen_B, length)
        inner_N = np.tile(np.arange(length), len(chosen_B))
        token_BS = torch.from_numpy(windows.tokens.astype(np.int64))
        return Batch(
            token_N=token_BS[:, :-1].reshape(-1),
            lengths=tuple(windows.lengths()),
            label_N=token_BS[:, 1:].reshape(-1),
            parts=tuple(_parts(self.routes, number_N, inner_N, counts_N)),
        )

    def chosen(self, step: int) -> npt.NDArray[np.int64]:
        """Return the windows of `step`."""
        count = len(self.windows.tokens)
        place_B = np.arange((step - 1) * self.size, step * self.size)
        epochs = set((place_B // count).tolist())
        order = {e: np.random.default_rng((self.seed, e)).permutation(count) for e in epochs}
        return np.array([order[p // count][p % count] for p in place_B.tolist()])


def _parts(
    routes: Sequence[Route], window_N: Array, inner_N: Array, counts_N: npt.NDArray[np.bool_]
) -> list[Part]:
    """Split the positions that count by who teaches them: the first route that speaks of them."""
    parts, left_N = [], counts_N.copy()
    for route in routes:
        rows = [rows.of(window_N, inner_N) for _, _, rows in route.voices]
        mine_N = left_N & np.logical_and.reduce([row_N >= 0 for row_N in rows])
        left_N &= ~mine_N
        (at_M,) = np.nonzero(mine_N)
        voices = tuple(
            Voice(weight=weight, source=source, row_M=torch.from_numpy(row_N[at_M]))
            for (weight, source, _), row_N in zip(route.voices, rows, strict=True)
        )
        if len(at_M):
            parts.append(Part(at_M=torch.from_numpy(at_M), voices=voices))
    (at_M,) = np.nonzero(left_N)
    if len(at_M):
        parts.append(Part(at_M=torch.from_numpy(at_M)))
    return parts
