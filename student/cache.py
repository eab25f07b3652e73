"""What decoding remembers of the tokens so far, for a batch of sequences of any lengths.

A v4 layer keeps one table a sequence: a row of zeros for the sink, a ring of the window's keys,
then compressed entries as they are made; a bias says which rows are filled. An mla layer keeps a
latent and a rotary key a token. Lengths are known on the host, so a step knows which windows
close without asking the device, and sequences of different lengths share every operation.

Shapes: B sequences, D hidden_size, F features of a key, C tokens a window, Y rows of a table,
W sliding window, L + R latent and rotary key of mla, S series of a compressor.
"""

from collections.abc import Sequence

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
        self._slots: dict[int, torch.Tensor] = {}

    def slot(self, size: int) -> torch.Tensor:
        """Return where in a ring of `size` this step's tokens go, int64 `[B]`."""
        if size not in self._slots:
            self._slots[size] = self.place_B % size
        return self._slots[size]

    def advance(self) -> None:
        """Move every sequence on by one token."""
        self.place += 1
        self.place_B += 1
        self._slots.clear()

    def check_room(self) -> None:
        """Refuse a token there is no room for.

        Raises:
            ShapeError: a sequence is as long as the cache is.
        """
        if int(self.place.max()) >= self.capacity:
            raise ShapeError(
                f"capacity is {self.capacity} tokens and a sequence has reached it; make the "
                "cache larger."
            )


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
        clock, filled = self.clock, int(self.clock.place.max()) + 1
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

    def add(self, x_BD: torch.Tensor) -> tuple[np.ndarray, torch.Tensor] | None:
        """Keep this step's makings; return which sequences close a window, and their entries.

        Returns:
            closing: rows of the batch, on the host.
            entry: one entry a closing row, `[len(closing), F]`; or None if no window closes.
        """
        clock = self.clock
        made_BF = F.linear(x_BD, self.weight).to(self.ring_BCF.dtype)
        self.ring_BCF[clock.row_B, clock.slot(self.size)] = made_BF
        closing = np.flatnonzero((clock.place + 1) % self.compressor.compression == 0)
        return (closing, self._make(closing)) if len(closing) else None

    def _make(self, closing: np.ndarray) -> torch.Tensor:
        """Return the entries of the windows that this step's tokens close."""
        device, span = self.ring_BCF.device, self.compressor.compression
        place = self.clock.place[closing]
        order = (place[:, None] + 1 + np.arange(self.size)) % self.size  # oldest token first
        row_b1 = torch.from_numpy(closing).to(device)[:, None]
        made_bCF = self.ring_BCF[row_b1, torch.from_numpy(order).to(device)]
        value_bCF, gate_bCF = made_bCF.chunk(2, dim=-1)
        bias_CF = self.compressor.position_bias
        if self.compressor.overlap:
            width = self.compressor.width
            value_bCF = torch.cat((value_bCF[:, :span, :width], value_bCF[:, span:, width:]), dim=1)
            first = gate_bCF[:, :span, :width] + bias_CF[:, :width]
            if (place + 1 == span).any():  # a first window has none before it
                alone = torch.from_numpy(place + 1 == span).to(device)[:, None, None]
                first = first.masked_fill(alone, _HIDDEN)
            second = gate_bCF[:, span:, width:] + bias_CF[:, width:]
            gate_bCF = torch.cat((first, second), dim=1)
        else:
            gate_bCF = gate_bCF + bias_CF
        begin_b = torch.from_numpy(place + 1 - span).to(device)
        return self.compressor.pool(value_bCF, gate_bCF, angles(begin_b, self.frequency_R))


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
        span = maker.compressor.compression if maker is not None else 0
        self.span = span
        rows = 1 + window + (clock.capacity // span if span else 0)
        batch, device = len(clock.place), clock.place_B.device
        self.table_BYF = torch.zeros(batch, rows, width, dtype=dtype, device=device)
        self.bias_B1Y = torch.full((batch, 1, rows), _HIDDEN, dtype=torch.float32, device=device)
        self.bias_B1Y[:, :, 0] = 0

    @property
    def first_entry(self) -> int:
        """The row of a table where entries begin."""
        return 1 + self.window

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
            self.bias_B1Y[row, 0, slots] = 0
        if self.maker is not None and entry_TF is not None and makings is not None:
            self.maker.fill(documents, makings)
            counts = [length // self.span for length in documents.lengths]
            for row, part in enumerate(entry_TF.split(counts)):
                rows = slice(self.first_entry, self.first_entry + len(part))
                self.table_BYF[row, rows] = part.to(self.table_BYF.dtype)
                self.bias_B1Y[row, :, rows] = 0

    def add(self, x_BD: torch.Tensor, key_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep this step's tokens; return table `[B, Y, F]` and bias `[B, 1, Y]`, filled part."""
        clock = self.clock
        slot_B = clock.slot(self.window)
        self.table_BYF[:, 1 : self.first_entry][clock.row_B, slot_B] = key_BF
        if clock.place.min() < self.window:  # else every slot of every ring is open already
            self.bias_B1Y[:, 0, 1 : self.first_entry][clock.row_B, slot_B] = 0
        if self.maker is None:
            return self.table_BYF, self.bias_B1Y
        made = self.maker.add(x_BD)
        if made is not None:
            closing, entry_bF = made
            device = self.table_BYF.device
            row_b = torch.from_numpy(closing).to(device)
            place = self.first_entry + (clock.place[closing] + 1) // self.span - 1
            place_b = torch.from_numpy(place).to(device)
            self.table_BYF[row_b, place_b] = entry_bF.to(self.table_BYF.dtype)
            self.bias_B1Y[row_b, 0, place_b] = 0
        filled = self.first_entry + int((clock.place.max() + 1) // self.span)
        return self.table_BYF[:, :filled], self.bias_B1Y[:, :, :filled]


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
            device = self.key_BTF.device
            row_b = torch.from_numpy(closing).to(device)
            place_b = torch.from_numpy((clock.place[closing] + 1) // self.span - 1).to(device)
            self.key_BTF[row_b, place_b] = key_bF.to(self.key_BTF.dtype)
        return self.key_BTF[:, : int((clock.place.max() + 1) // self.span)]


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
    logit_BHY = widened(torch.bmm(q_BHF * scale, row_BYF.transpose(1, 2))) + bias_B1Y
    if sink_H is not None:
        logit_BHY[:, :, 0] = sink_H
    return torch.bmm(torch.softmax(logit_BHY, dim=-1).to(q_BHF.dtype), row_BYF)
