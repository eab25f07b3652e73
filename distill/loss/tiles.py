"""Tiles of logits: how many positions at once, and the buffers they are written to.

A tile is some positions by the full vocabulary. It is large enough that adding to the gradient of
the head, once a tile, costs little; on a CPU the work between the matrix products goes through it
in blocks of whole rows that stay in the cache nearest to a core, which was measured 2 to 4 times
quicker than passing over the tile as a whole.

Shapes: N positions, T positions of a tile, R rows of a block, D hidden size, V vocabulary.
"""

from collections.abc import Iterator

import torch

from distill.signals import Head

# Rows of a tile, and the elements up to which it may have more, by kind of memory: 128 rows of
# 129,280 float32 are 63 MiB. Fewer rows make the products slower, more make them hardly faster.
CPU_ROWS, CPU_ELEMENTS = 128, 2**22
DEVICE_ROWS, DEVICE_ELEMENTS = 1024, 2**26
# Elements of a block a thread: half a MiB in float32, so that four of them fit into a core's L2.
BLOCK_ELEMENTS = 2**17


def tile_rows(vocab: int, device: torch.device) -> int:
    """Return how many positions to take at once."""
    on_cpu = device.type == "cpu"
    rows, elements = (CPU_ROWS, CPU_ELEMENTS) if on_cpu else (DEVICE_ROWS, DEVICE_ELEMENTS)
    return max(rows, elements // vocab)


def cut(ends: list[int], rows: int) -> list[slice]:
    """Return tiles of about `rows` positions, each of which ends at one of the increasing `ends`.

    Tiles are as even as the ends allow; one is larger only where no end comes in time.
    """
    count = -(-ends[-1] // rows) if ends else 0
    tiles, start = [], 0
    for place, end in enumerate(ends):
        last = place + 1 == len(ends)
        even = -(-ends[-1] // count)
        if last or ends[place + 1] - start > even:
            tiles.append(slice(start, end))
            start = end
    return tiles


def blocks(tile_TV: torch.Tensor) -> Iterator[slice]:
    """Yield the rows of a tile that are worked on together: all of them off the CPU."""
    count, vocab = tile_TV.shape
    rows = count
    if tile_TV.device.type == "cpu":
        rows = max(1, BLOCK_ELEMENTS * torch.get_num_threads() // vocab)
    for start in range(0, count, max(rows, 1)):
        yield slice(start, min(start + rows, count))


class Projection:
    """A head, with the buffers its tiles of logits are written to.

    The product runs in the dtype of the head's weight, whatever is done with it in `wide`.
    """

    def __init__(self, head: Head, rows: int, wide: torch.dtype) -> None:
        """Make room for tiles of up to `rows` positions."""
        self.head = head
        self._wide = wide
        self._low_TV = self._wide_TV = head.weight_VT.new_empty(0)
        self.reserve(rows)

    def reserve(self, rows: int) -> None:
        """Make room for tiles of up to `rows` positions, where there is less."""
        if rows <= len(self._low_TV):
            return
        weight_VD = self.head.weight_VT
        self._low_TV = weight_VD.new_empty(rows, len(weight_VD))
        same = weight_VD.dtype == self._wide
        self._wide_TV = self._low_TV if same else torch.empty_like(self._low_TV, dtype=self._wide)

    def __call__(self, states_TD: torch.Tensor) -> torch.Tensor:
        """Return logits `[T, V]` in `wide`; the next call overwrites them."""
        weight_VD = self.head.weight_VT
        low_TV, wide_TV = self._low_TV[: len(states_TD)], self._wide_TV[: len(states_TD)]
        torch.mm(states_TD.to(weight_VD.dtype), weight_VD.t(), out=low_TV)
        if wide_TV.dtype != low_TV.dtype:
            wide_TV.copy_(low_TV)
        if self.head.bias_V is not None:
            wide_TV.add_(self.head.bias_V.to(wide_TV.dtype))
        if self.head.softcap is not None:
            wide_TV.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        return wide_TV

    def lowered(self, grad_TV: torch.Tensor) -> torch.Tensor:
        """Return a tile in the dtype of products; it overwrites the last logits."""
        low_TV = self._low_TV[: len(grad_TV)]
        return grad_TV if low_TV.dtype == grad_TV.dtype else low_TV.copy_(grad_TV)


class Scratch:
    """Buffers of the size of a block, the same ones for every block.

    Memory asked for anew each time is given back to the system in between by glibc, and its pages
    cost more than the work done in them (measured: 13 ns an element against 2).
    """

    def __init__(self, wide: torch.dtype, device: torch.device) -> None:
        """Begin without any; a buffer is made when it is first asked for."""
        self._wide, self._device = wide, device
        self._buffers: list[torch.Tensor] = []
        self._given = 0

    def begin(self) -> None:
        """Take all buffers back, for another block."""
        self._given = 0

    def take(self, like_RV: torch.Tensor) -> torch.Tensor:
        """Return an uninitialised block of this shape that nobody else holds."""
        size = like_RV.numel()
        if self._given == len(self._buffers) or self._buffers[self._given].numel() < size:
            made = torch.empty(size, dtype=self._wide, device=self._device)
            self._buffers[self._given : self._given + 1] = [made]
        self._given += 1
        return self._buffers[self._given - 1][:size].view(like_RV.shape)
