"""Shared-key attention over a sliding window, compressed entries and a sink, in one softmax.

DeepSeek-V4 report, sections 2.3.1 to 2.3.3. All heads share one key, which is also the value. A
token attends to the last tokens of its document's window, to compressed entries (all it may see,
or those an indexer chose) and to a learned sink that takes weight and gives nothing.

No buffer has a side of N by N: queries go in blocks over the keys their windows touch, chosen
entries are gathered for a tile of queries at a time, and what is kept for the backward pass is
the softmax over those alone. Forward and backward walk the same tiles.

Shapes: N tokens, H heads, F features of a head, T entries, K chosen entries a token, W window,
U queries a block, G blocks a tile, Y keys a block touches, X = Y + entries + sink.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from student import device as devices
from student.documents import Documents, Entries

_BLOCK = 32  # queries a block: with a window of 128, four fifths of the keys it touches are used


class Pool(NamedTuple):
    """Compressed entries a token may attend to.

    Attributes:
        entry_TF: keys that are also values.
        entries: which of them each token sees.
        choice_NK: int64 places in the flat list that the indexer chose, -1 where it had fewer to
            choose from; None for all that are seen.
    """

    entry_TF: torch.Tensor
    entries: Entries
    choice_NK: torch.Tensor | None


class Tile(NamedTuple):
    """Whole blocks of queries: tokens `start` to `stop - 1`, seeing entries `low` to `high - 1`."""

    start: int
    stop: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How one stream is cut for one kind of layer."""

    documents: Documents
    entries: Entries | None
    chosen: int
    window: int
    heads: int
    tile_elements: int

    @property
    def block(self) -> int:
        """U, queries a block."""
        return min(_BLOCK, self.window)

    @property
    def reach(self) -> int:
        """Keys before a block's first query that it touches: the window in whole blocks."""
        return -(-self.window // self.block) * self.block

    @property
    def padded(self) -> int:
        """N rounded up to whole blocks."""
        return -(-self.documents.num_tokens // self.block) * self.block

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles in order; each fits `tile_elements` numbers, if one block does."""
        total, start = self.documents.num_tokens, 0
        room, width = self.tile_elements // self.heads, self.reach + self.block + 1
        blocks = max(1, room // ((width + self.chosen) * self.block))
        while start < total:
            if self.entries is None or self.chosen:
                stop = min(start + blocks * self.block, total)
            else:
                stop = self.entries.tile_end(start, room, self.block, width)
            low, high = self.entries.span(start, stop) if self.entries else (0, 0)
            yield Tile(start, stop, low, high)
            start = stop


def plan(
    documents: Documents, pool: Pool | None, *, window: int, heads: int, device: torch.device
) -> Plan:
    """Return how to cut this stream, for windows no wider than its longest document."""
    window = min(window, max(documents.lengths))
    entries = pool.entries if pool is not None and pool.entries.count else None
    chosen = 0
    if entries is not None and pool is not None and pool.choice_NK is not None:
        chosen = pool.choice_NK.shape[1]
    return Plan(documents, entries, chosen, window, heads, devices.tile_elements(device))


def attend(
    q_NHF: torch.Tensor,
    key_NF: torch.Tensor,
    sink_H: torch.Tensor,
    pool: Pool | None,
    cut: Plan,
    *,
    scale: float,
    want_mass: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return what each head reads, and how much of its softmax the entries took.

    Args:
        q_NHF: queries.
        key_NF: one key a token, also its value.
        sink_H: logit of each head's sink.
        pool: compressed entries, or None for the window alone.
        cut: from `plan`.
        scale: factor of every logit but the sink's.
        want_mass: whether to return the second result.

    Returns:
        out_NHF: in the dtype of `q_NHF`.
        mass: a tensor a tile, without gradient, float32: the weight of each entry in the softmax
            over window, entries and sink, summed over heads: `[tokens, K]` of chosen entries, or
            `[tokens, high - low]`.
    """
    entry_TF = None if cut.entries is None or pool is None else pool.entry_TF.to(q_NHF.dtype)
    choice_NK = None if pool is None or not cut.chosen else pool.choice_NK
    out_NHF, *mass = _Attend.apply(
        q_NHF * scale,
        key_NF.to(q_NHF.dtype),
        sink_H,
        entry_TF,
        choice_NK,
        cut,
        want_mass,
        torch.is_grad_enabled(),
    )
    return out_NHF, mass


class _Attend(torch.autograd.Function):
    """The tiles of `attend`, with queries scaled already."""

    @staticmethod
    def forward(
        ctx: Any,
        q_NHF: torch.Tensor,
        key_NF: torch.Tensor,
        sink_H: torch.Tensor,
        entry_TF: torch.Tensor | None,
        choice_NK: torch.Tensor | None,
        cut: Plan,
        want_mass: bool,
        keep: bool,
    ) -> tuple[torch.Tensor, ...]:
        total, heads, width = q_NHF.shape
        spare = cut.padded - total
        q_NHF = F.pad(q_NHF, (0, 0, 0, 0, 0, spare)) if spare else q_NHF.contiguous()
        key_NF = F.pad(key_NF, (0, 0, cut.reach, spare))
        start_N = F.pad(cut.documents.start_N, (0, spare), value=total)
        out_NHF = torch.empty_like(q_NHF)
        softmax, mass = [], []
        wide = torch.promote_types(q_NHF.dtype, torch.float32)
        for tile in cut.tiles():
            keys = _Keys(cut, tile, key_NF, entry_TF, choice_NK)
            rows = keys.rows
            q_GUF = q_NHF[rows].view(keys.blocks, -1, width)
            logit_GUX = keys.products(q_GUF)
            logit_RHX = logit_GUX.view(-1, heads, logit_GUX.shape[-1])
            logit_RHX[..., -1] = sink_H
            logit_RHX[..., :-1] += keys.bias(start_N[rows], logit_RHX.dtype)
            weight_GUX = torch.softmax(logit_GUX, -1, dtype=wide).to(q_NHF.dtype)
            out_NHF[rows] = keys.sums(weight_GUX, heads).view(-1, heads, width)
            if keep:
                softmax.append(weight_GUX)
            if want_mass:
                taken_RHK = weight_GUX.view(-1, heads, weight_GUX.shape[-1])
                taken_RHK = taken_RHK[: tile.stop - tile.start, :, keys.touched : -1]
                mass.append(taken_RHK.sum(1, dtype=wide))
        ctx.save_for_backward(q_NHF, key_NF, sink_H, entry_TF, choice_NK, out_NHF, *softmax)
        ctx.cut = cut
        ctx.mark_non_differentiable(*mass)
        return out_NHF[:total], *mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_NHF, key_NF, sink_H, entry_TF, choice_NK, out_NHF, *softmax = ctx.saved_tensors
        cut: Plan = ctx.cut
        total, heads, width = grads[0].shape
        g_NHF = grads[0]
        spare = cut.padded - total
        g_NHF = F.pad(g_NHF, (0, 0, 0, 0, 0, spare)) if spare else g_NHF.contiguous()
        wide = torch.promote_types(q_NHF.dtype, torch.float32)
        dq_NHF = torch.empty_like(q_NHF)
        dkey_NF = torch.zeros_like(key_NF, dtype=wide)
        dsink_H = torch.zeros_like(sink_H, dtype=wide)
        dentry_TF = None if entry_TF is None else torch.zeros_like(entry_TF, dtype=wide)
        for tile, weight_GUX in zip(cut.tiles(), softmax, strict=True):
            keys = _Keys(cut, tile, key_NF, entry_TF, choice_NK)
            rows = keys.rows
            q_GUF = q_NHF[rows].view(keys.blocks, -1, width)
            g_GUF = g_NHF[rows].view(keys.blocks, -1, width)
            share_GU1 = (g_GUF.to(wide) * out_NHF[rows].view_as(g_GUF)).sum(-1, keepdim=True)
            dlogit_GUX = keys.products(g_GUF)
            dlogit_GUX.sub_(share_GU1).mul_(weight_GUX)
            dsink_H -= (share_GU1 * weight_GUX[..., -1:]).view(-1, heads).sum(0)
            dq_NHF[rows] = keys.sums(dlogit_GUX, heads).view(-1, heads, width)
            pairs = ((weight_GUX, g_GUF), (dlogit_GUX, q_GUF))
            keys.add_key_gradient(dkey_NF, pairs)
            if dentry_TF is not None:
                keys.add_entry_gradient(dentry_TF, pairs, heads)
        dkey_NF = dkey_NF[cut.reach : cut.reach + total].to(key_NF.dtype)
        if dentry_TF is not None and entry_TF is not None:
            dentry_TF = dentry_TF.to(entry_TF.dtype)
        dsink_H = dsink_H.to(sink_H.dtype)
        return dq_NHF[:total], dkey_NF, dsink_H, dentry_TF, None, None, None, None


class _Keys:
    """What the queries of one tile look at, and the products with it."""

    def __init__(
        self,
        cut: Plan,
        tile: Tile,
        key_NF: torch.Tensor,
        entry_TF: torch.Tensor | None,
        choice_NK: torch.Tensor | None,
    ) -> None:
        self.cut, self.tile = cut, tile
        self.blocks = -(-(tile.stop - tile.start) // cut.block)
        self.queries = self.blocks * cut.block
        self.rows = slice(tile.start, tile.start + self.queries)
        self.touched = cut.reach + cut.block
        width = key_NF.shape[1]
        # Padded in front by the reach, so block g of the stream touches rows from g U on; the
        # windows overlap, and this is a view.
        self.window_GYF = key_NF.as_strided(
            (self.blocks, self.touched, width),
            (cut.block * width, width, 1),
            key_NF.storage_offset() + tile.start * width,
        )
        self.entry_EF: torch.Tensor | None = None
        self.chosen_RKF: torch.Tensor | None = None
        self.choice_RK: torch.Tensor | None = None
        if choice_NK is not None and entry_TF is not None:
            spare = self.queries - (tile.stop - tile.start)
            self.choice_RK = F.pad(choice_NK[tile.start : tile.stop], (0, 0, 0, spare), value=-1)
            taken = entry_TF.index_select(0, self.choice_RK.clamp_min(0).flatten())
            self.chosen_RKF = taken.view(self.queries, -1, width)
        elif entry_TF is not None:
            self.entry_EF = entry_TF[tile.low : tile.high]

    @property
    def pooled(self) -> int:
        """How many entries a query of this tile has logits for."""
        if self.chosen_RKF is not None:
            return self.chosen_RKF.shape[1]
        return 0 if self.entry_EF is None else self.entry_EF.shape[0]

    def products(self, x_GUF: torch.Tensor) -> torch.Tensor:
        """Return `[G, U H, X]`: each row times every key it may look at; the last is unset."""
        width = x_GUF.shape[-1]
        out_GUX = x_GUF.new_empty(*x_GUF.shape[:2], self.touched + self.pooled + 1)
        torch.bmm(x_GUF, self.window_GYF.transpose(1, 2), out=out_GUX[..., : self.touched])
        if self.chosen_RKF is not None:
            out_RHX = out_GUX.view(self.queries, -1, out_GUX.shape[-1])
            x_RHF = x_GUF.view(self.queries, -1, width)
            into = out_RHX[..., self.touched : -1]
            torch.bmm(x_RHF, self.chosen_RKF.transpose(1, 2), out=into)
        elif self.pooled and self.entry_EF is not None:
            into = out_GUX.view(-1, out_GUX.shape[-1])[:, self.touched : -1]
            torch.mm(x_GUF.view(-1, width), self.entry_EF.t(), out=into)
        return out_GUX

    def sums(self, weight_GUX: torch.Tensor, heads: int) -> torch.Tensor:
        """Return `[G, U H, F]`: the keys summed with these weights."""
        out_GUF = torch.bmm(weight_GUX[..., : self.touched], self.window_GYF)
        width = out_GUF.shape[-1]
        weight_RHK = weight_GUX.view(self.queries, heads, -1)[..., self.touched : -1]
        if self.chosen_RKF is not None:
            out_GUF.view(self.queries, heads, width).baddbmm_(weight_RHK, self.chosen_RKF)
        elif self.pooled and self.entry_EF is not None:
            out_GUF.view(-1, width).addmm_(weight_RHK.flatten(0, 1), self.entry_EF)
        return out_GUF

    def bias(self, start_R: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return `[queries, 1, X - 1]`: 0 where a query may look, minus infinity elsewhere."""
        cut, device = self.cut, start_R.device
        place_U = torch.arange(cut.block, device=device)
        column_Y = torch.arange(self.touched, device=device)
        first_G = torch.arange(self.blocks, device=device) * cut.block + self.tile.start
        # Column y of a block that begins at token b is token b + y - reach.
        begin_GU = start_R.view(self.blocks, cut.block) - first_G[:, None] + cut.reach
        oldest_GU = torch.maximum(begin_GU, place_U + 1 + cut.reach - cut.window)
        # A padded query has no document; it looks at itself.
        oldest_GU = torch.minimum(oldest_GU, place_U + cut.reach)
        seen_GUY = (column_Y >= oldest_GU[..., None]) & (column_Y <= place_U[:, None] + cut.reach)
        seen = [seen_GUY.view(self.queries, -1)]
        if self.choice_RK is not None:
            seen.append(self.choice_RK >= 0)
        elif self.pooled and cut.entries is not None:
            spare = self.queries - (self.tile.stop - self.tile.start)
            inside = slice(self.tile.start, self.tile.stop)
            first_R1 = F.pad(cut.entries.first_N[inside], (0, spare))[:, None]
            end_R1 = F.pad(cut.entries.end_N[inside], (0, spare))[:, None]
            place_E = torch.arange(self.tile.low, self.tile.high, device=device)
            seen.append((place_E >= first_R1) & (place_E < end_R1))
        hidden_RX = ~torch.cat(seen, dim=1)
        bias_RX = torch.zeros(hidden_RX.shape, dtype=dtype, device=device)
        return bias_RX.masked_fill_(hidden_RX, float("-inf")).unsqueeze(1)

    def add_key_gradient(
        self, dkey_NF: torch.Tensor, pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    ) -> None:
        """Add, to the padded keys, the products of each pair's window columns and rows."""
        (weight_GUX, g_GUF), (dlogit_GUX, q_GUF) = pairs
        part_GYF = torch.bmm(weight_GUX[..., : self.touched].transpose(1, 2), g_GUF)
        part_GYF.baddbmm_(dlogit_GUX[..., : self.touched].transpose(1, 2), q_GUF)
        block, width = self.cut.block, dkey_NF.shape[1]
        padded_GUF = dkey_NF.view(-1, block, width)
        first = self.tile.start // block
        for shift in range(self.touched // block):
            into = padded_GUF[first + shift : first + shift + self.blocks]
            into += part_GYF[:, shift * block : (shift + 1) * block]

    def add_entry_gradient(
        self,
        dentry_TF: torch.Tensor,
        pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...],
        heads: int,
    ) -> None:
        """Add, to the entries, the products of each pair's entry columns and rows."""
        columns = [
            w_GUX.view(self.queries, heads, -1)[..., self.touched : -1] for w_GUX, _ in pairs
        ]
        rows = [x_GUF.view(self.queries, heads, -1) for _, x_GUF in pairs]
        if self.choice_RK is not None:
            part_RKF = torch.bmm(columns[0].transpose(1, 2), rows[0])
            part_RKF.baddbmm_(columns[1].transpose(1, 2), rows[1])
            # Where there was nothing to choose the weights are 0, and so is what is added.
            place = self.choice_RK.clamp_min(0).flatten()
            dentry_TF.index_add_(0, place, part_RKF.flatten(0, 1).to(dentry_TF.dtype))
        elif self.pooled:
            into = dentry_TF[self.tile.low : self.tile.high]
            for column_RHE, row_RHF in zip(columns, rows, strict=True):
                into += column_RHE.flatten(0, 1).t() @ row_RHF.flatten(0, 1)
