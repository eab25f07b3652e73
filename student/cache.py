"""What decoding remembers of the tokens so far, for a batch of sequences of any lengths.

A v4 layer keeps one table a sequence: a row of zeros for the sink, a ring of the window's keys,
then compressed entries as they are made; a bias says which rows are filled. An mla layer keeps a
latent and a rotary key a token. Lengths are known on the host, so a step knows which windows
close without asking the device, and sequences of different lengths share every operation.

Shapes: B sequences, D hidden_size, F features of a key, C tokens a window, Y rows of a table,
W sliding window, L + R latent and rotary key of mla, S series of a compressor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from student.compressor import Compressor
from student.documents import Documents
from student.errors import ShapeError
from student.norm import widened
from student.rotary import angles

_HIDDEN = float("-inf")


class Clock:
    """How far each sequence is, on the host and on the device.

    Attributes:
        place: int64 `[B]` on the host, the position the next token takes.
        shortest, longest: the least and the greatest of these.
        place_B: the same on the device.
        row_B: 0 to B - 1 on the device.
        capacity: tokens a sequence may reach.
    """

    def __init__(self, lengths: Sequence[int], capacity: int, device: torch.device) -> None:
        if max(lengths) > capacity:
            raise ShapeError(
                f"lengths is {list(lengths)}; a sequence is longer than the cache's capacity of "
                f"{capacity} tokens."
            )
        self.place = np.asarray(lengths, dtype=np.int64)
        self.place_B = torch.from_numpy(self.place.copy()).to(device)
        self.row_B = torch.arange(len(lengths), device=device)
        self.capacity = capacity
        self.shortest, self.longest = int(self.place.min()), int(self.place.max())
        self._slots: dict[int, torch.Tensor] = {}
        self._closings: dict[int, Closing | None] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}

    def closing(self, span: int) -> "Closing | None":
        """Return which sequences close a window of `span` tokens with this step, if any does."""
        if span not in self._closings:
            row = np.flatnonzero((self.place + 1) % span == 0)
            self._closings[span] = _closing(self, row, span) if len(row) else None
        return self._closings[span]

    def layout(self, window: int, span: int) -> "Layout":
        """Return what all layers of this window and compression (0 for none) share."""
        if (window, span) not in self._layouts:
            self._layouts[window, span] = Layout(self, window, span)
        return self._layouts[window, span]

    def slot(self, size: int) -> torch.Tensor:
        """Return where in a ring of `size` this step's tokens go, int64 `[B]`."""
        if size not in self._slots:
            self._slots[size] = self.place_B % size
        return self._slots[size]

    def advance(self) -> None:
        """Move every sequence on by one token."""
        self.place += 1
        self.shortest += 1
        self.longest += 1
        self.place_B += 1
        self._slots.clear()
        self._closings.clear()

    def check_room(self) -> None:
        """Refuse a token there is no room for.

        Raises:
            ShapeError: a sequence is as long as the cache is.
        """
        if self.longest >= self.capacity:
            raise ShapeError(
                f"capacity is {self.capacity} tokens and a sequence has reached it; make the "
                "cache larger."
            )


class Closing(NamedTuple):
    """The sequences whose windows a step closes; b counts them.

    Attributes:
        place: their positions in this step, on the host.
        row_b: int64, their rows in the batch.
        entry_b: int64, the number of the entry each closes, from 0.
        begin_b: int64, the position its window begins at.
        first_b: whether the window is the sequence's first; None if none is.
    """

    place: np.ndarray
    row_b: torch.Tensor
    entry_b: torch.Tensor
    begin_b: torch.Tensor
    first_b: torch.Tensor | None


def _closing(clock: Clock, row: np.ndarray, span: int) -> Closing:
    device, place = clock.place_B.device, clock.place[row]
    numbers = np.stack((row, (place + 1) // span - 1, place + 1 - span))
    row_b, entry_b, begin_b = torch.from_numpy(numbers).to(device).unbind()
    first = place + 1 == span
    first_b = torch.from_numpy(first).to(device) if first.any() else None
    return Closing(place, row_b, entry_b, begin_b, first_b)


class Layout:
    """Which rows of the tables of one kind of v4 layer are filled: sink, window, entries.

    Attributes:
        first_entry: the row where entries begin.
        rows: how many a table has.
    """

    def __init__(self, clock: Clock, window: int, span: int) -> None:
        self.clock, self.window, self.span = clock, window, span
        self.first_entry = 1 + window
        self.rows = self.first_entry + (clock.capacity // span if span else 0)
        length, row = clock.place[:, None], np.arange(self.rows)
        filled = row < 1 + np.minimum(length, window)
        if span:
            filled |= (row >= self.first_entry) & (row < self.first_entry + length // span)
        bias = np.where(filled, 0.0, _HIDDEN).astype(np.float32)
        self._bias_B1Y = torch.from_numpy(bias).to(clock.place_B.device).unsqueeze(1)
        self._step: tuple[int, torch.Tensor, torch.Tensor] | None = None

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the row each sequence's token takes, int64 `[B]`, and the bias `[B, 1, Y]`.

        The bias is 0 where a row is filled, by this step too, and minus infinity elsewhere; Y ends
        with the last entry of any sequence. The first layer of a step makes both for all.
        """
        longest = self.clock.longest
        if self._step is None or self._step[0] != longest:
            self._step = (longest, *self._next(longest))
        return self._step[1:]

    def _next(self, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        clock, filled = self.clock, self.first_entry
        row_B = 1 + clock.slot(self.window)
        if clock.shortest < self.window:  # else every slot of every ring is open already
            self._bias_B1Y[clock.row_B, 0, row_B] = 0
        if self.span:
            filled += (longest + 1) // self.span
            if (closing := clock.closing(self.span)) is not None:
                self._bias_B1Y[closing.row_b, 0, self.first_entry + closing.entry_b] = 0
        return row_B, self._bias_B1Y[:, :, :filled]


def _by_sequence(documents: Documents, x_NF: torch.Tensor) -> list[torch.Tensor]:
    return list(x_NF.split(list(documents.lengths)))


class MLACache:
    """Latents and rotary keys of one mla layer, `[B, capacity, L + R]`."""

    def __init__(self, clock: Clock, width: int, dtype: torch.dtype) -> None:
        batch, device = len(clock.place), clock.place_B.device
        self.clock = clock
        self.latent_BYF = torch.zeros(batch, clock.capacity, width, dtype=dtype, device=device)
        shape = (batch, 1, clock.capacity)
        self.bias_B1Y = torch.full(shape, _HIDDEN, dtype=torch.float32, device=device)

    def fill(self, documents: Documents, memory_NF: torch.Tensor) -> None:
        """Take over what a forward pass made of the prompts."""
        for row, part in enumerate(_by_sequence(documents, memory_NF)):
            self.latent_BYF[row, : len(part)] = part
            self.bias_B1Y[row, :, : len(part)] = 0

    def add(self, latent_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep this step's tokens; return rows `[B, Y, F]` and bias `[B, 1, Y]` to attend to."""
        clock, filled = self.clock, self.clock.longest + 1
        self.latent_BYF[clock.row_B, clock.place_B] = latent_BF.to(self.latent_BYF.dtype)
        self.bias_B1Y[clock.row_B, 0, clock.place_B] = 0
        return self.latent_BYF[:, :filled], self.bias_B1Y[:, :, :filled]


class EntryMaker:
    """The makings of entries to come, for one compressor: a ring of values and gates."""

    def __init__(
        self, clock: Clock, compressor: Compressor, frequency_R: torch.Tensor, dtype: torch.dtype
    ) -> None:
        self.clock, self.compressor, self.frequency_R = clock, compressor, frequency_R
        self.size = compressor.compression * (2 if compressor.overlap else 1)
        # Both projections in one product, and both results in one row of the ring.
        self.weight = torch.cat((compressor.kv.weight, compressor.gate.weight))
        shape = (len(clock.place), self.size, len(self.weight))
        self.ring_BCF = torch.zeros(shape, dtype=dtype, device=clock.place_B.device)

    def fill(self, documents: Documents, makings: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take over the last windows of the prompts."""
        for row, part in enumerate(_by_sequence(documents, torch.cat(makings, dim=-1))):
            kept = np.arange(max(0, len(part) - self.size), len(part))
            slots = torch.from_numpy(kept % self.size).to(self.ring_BCF.device)
            self.ring_BCF[row, slots] = part[len(part) - len(kept) :].to(self.ring_BCF.dtype)

    def add(self, x_BD: torch.Tensor) -> tuple[Closing, torch.Tensor] | None:
        """Keep this step's makings; return which sequences close a window, and their entries.

        Returns:
            closing: from the clock.
            entry_bF: one entry a closing sequence; or None in place of both if none closes.
        """
        clock = self.clock
        made_BF = F.linear(x_BD, self.weight).to(self.ring_BCF.dtype)
        self.ring_BCF[clock.row_B, clock.slot(self.size)] = made_BF
        closing = clock.closing(self.compressor.compression)
        return None if closing is None else (closing, self._make(closing))

    def _make(self, closing: Closing) -> torch.Tensor:
        """Return the entries of the windows that this step's tokens close."""
        device, span = self.ring_BCF.device, self.compressor.compression
        order = (closing.place[:, None] + 1 + np.arange(self.size)) % self.size  # oldest first
        made_bCF = self.ring_BCF[closing.row_b[:, None], torch.from_numpy(order).to(device)]
        value_bCF, gate_bCF = made_bCF.chunk(2, dim=-1)
        bias_CF = self.compressor.position_bias
        if self.compressor.overlap:
            width = self.compressor.width
            value_bCF = torch.cat((value_bCF[:, :span, :width], value_bCF[:, span:, width:]), dim=1)
            first = gate_bCF[:, :span, :width] + bias_CF[:, :width]
            if closing.first_b is not None:  # a first window has none before it
                first = first.masked_fill(closing.first_b[:, None, None], _HIDDEN)
            second = gate_bCF[:, span:, width:] + bias_CF[:, width:]
            gate_bCF = torch.cat((first, second), dim=1)
        else:
            gate_bCF = gate_bCF + bias_CF
        turn = angles(closing.begin_b, self.frequency_R)
        return self.compressor.pool(value_bCF, gate_bCF, turn)


class V4Cache:
    """Window keys and entries of one v4 layer, in one table that one product attends to."""

    def __init__(
        self,
        clock: Clock,
        window: int,
        width: int,
        maker: EntryMaker | None,
        index: "IndexCache | None",
        dtype: torch.dtype,
    ) -> None:
        self.clock, self.window, self.maker, self.index = clock, window, maker, index
        self.span = maker.compressor.compression if maker is not None else 0
        self.layout = clock.layout(window, self.span)
        shape = (len(clock.place), self.layout.rows, width)
        self.table_BYF = torch.zeros(shape, dtype=dtype, device=clock.place_B.device)

    @property
    def first_entry(self) -> int:
        """The row of a table where entries begin."""
        return self.layout.first_entry

    def fill(
        self,
        documents: Documents,
        key_NF: torch.Tensor,
        entry_TF: torch.Tensor | None,
        makings: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Take over what a forward pass made of the prompts."""
        for row, part in enumerate(_by_sequence(documents, key_NF)):
            kept = np.arange(max(0, len(part) - self.window), len(part))
            slots = torch.from_numpy(1 + kept % self.window).to(self.table_BYF.device)
            self.table_BYF[row, slots] = part[len(part) - len(kept) :].to(self.table_BYF.dtype)
        if self.maker is not None and entry_TF is not None and makings is not None:
            self.maker.fill(documents, makings)
            counts = [length // self.span for length in documents.lengths]
            for row, part in enumerate(entry_TF.split(counts)):
                rows = slice(self.first_entry, self.first_entry + len(part))
                self.table_BYF[row, rows] = part.to(self.table_BYF.dtype)

    def add(self, x_BD: torch.Tensor, key_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep this step's tokens; return table `[B, Y, F]` and bias `[B, 1, Y]`, filled part."""
        row_B, bias_B1Y = self.layout.step()
        self.table_BYF[self.clock.row_B, row_B] = key_BF
        made = None if self.maker is None else self.maker.add(x_BD)
        if made is not None:
            closing, entry_bF = made
            row_b = self.first_entry + closing.entry_b
            self.table_BYF[closing.row_b, row_b] = entry_bF.to(self.table_BYF.dtype)
        return self.table_BYF[:, : bias_B1Y.shape[2]], bias_B1Y


class IndexCache:
    """Entry keys of one indexer, `[B, T, F]`."""

    def __init__(self, clock: Clock, maker: EntryMaker, dtype: torch.dtype) -> None:
        self.clock, self.maker = clock, maker
        self.span = maker.compressor.compression
        batch, device = len(clock.place), clock.place_B.device
        shape = (batch, clock.capacity // self.span, maker.compressor.width)
        self.key_BTF = torch.zeros(shape, dtype=dtype, device=device)

    def fill(
        self,
        documents: Documents,
        key_TF: torch.Tensor,
        makings: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Take over what a forward pass made of the prompts."""
        self.maker.fill(documents, makings)
        counts = [length // self.span for length in documents.lengths]
        for row, part in enumerate(key_TF.split(counts)):
            self.key_BTF[row, : len(part)] = part.to(self.key_BTF.dtype)

    def add(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Keep this step's tokens; return the keys that may be filled, `[B, T, F]`."""
        clock, made = self.clock, self.maker.add(x_BD)
        if made is not None:
            closing, key_bF = made
            self.key_BTF[closing.row_b, closing.entry_b] = key_bF.to(self.key_BTF.dtype)
        return self.key_BTF[:, : (clock.longest + 1) // self.span]


def read(
    q_BHF: torch.Tensor,
    row_BYF: torch.Tensor,
    bias_B1Y: torch.Tensor,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Return each head's softmax-weighted sum of the rows, `[B, H, F]`.

    With a sink the first row is zeros, and the sink's logit stands in its place.
    """
    if q_BHF.dtype == bias_B1Y.dtype:  # one call where products need not be widened
        logit_BHY = torch.baddbmm(bias_B1Y, q_BHF, row_BYF.transpose(1, 2), alpha=scale)
    else:
        logit_BHY = widened(torch.bmm(q_BHF * scale, row_BYF.transpose(1, 2))) + bias_B1Y
    if sink_H is not None:
        logit_BHY[:, :, 0] = sink_H
    return torch.bmm(torch.softmax(logit_BHY, dim=-1).to(q_BHF.dtype), row_BYF)
