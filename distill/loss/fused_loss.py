"""The loss over the vocabulary and its gradient, without ever holding `[N, V]` logits.

The gradient is taken tile by tile in the forward pass and the tile of logits thrown away (the idea
of Liger-Kernel's fused linear losses, arXiv 2410.10989): a position costs three products with the
student's head and one with the teacher's, whatever the terms. Masked positions are left out before
the first product. What the terms make of a tile is `dense_grader`'s, where a teacher's whole
distribution is known, and `sparse_grader`'s elsewhere.

Shapes: N positions, M of a piece that count, T of a tile, D hidden size, V vocabulary, K terms of a
piece, J of all pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd.function import once_differentiable

from distill.loss.compatibility import WHOLE, check, check_sizes
from distill.loss.dense_grader import DenseGrader
from distill.loss.objective import CrossEntropy, VocabularyTerm
from distill.loss.sparse_grader import SparseGrader
from distill.loss.tiles import Projection, cut, tile_rows
from distill.signals import Chunks, Head, Signal, Sparse, Text

# Elements of the head's gradient that a product in a lower dtype is added to at once.
SLICE_ELEMENTS = 2**21


class Loss(NamedTuple):
    """The loss to call `backward` on, and its terms.

    Attributes:
        total: scalar with a gradient, the weighted sum of `parts`.
        parts: one detached scalar a term, in their order and before their weights: the mean over
            counted positions (over whole chunks for `chunk_likelihood`), in nats, or from 0 to 1
            for `tvd` and 0 to 2 for `sorted_l1`.
    """

    total: torch.Tensor
    parts: tuple[torch.Tensor, ...]


class Losses(NamedTuple):
    """The loss of several pieces of one batch, and each one's terms.

    Attributes:
        total: scalar with a gradient: the weighted sum of the terms of each piece, which counts as
            much as it has positions.
        parts: of each piece what `Loss.parts` is.
    """

    total: torch.Tensor
    parts: tuple[tuple[torch.Tensor, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Positions of a batch that the same teachers speak of.

    Attributes:
        at_M: int64, which of the batch's N positions; none is in two pieces.
        row_M: int64, their rows in what the teachers say.
        terms: what to minimise there; one of weight 0 is reported and has no gradient.
        hear: returns what the teachers say, or None. It is called when the piece's turn comes, so
            no more than one piece's heads have to be there at a time.
    """

    at_M: torch.Tensor
    row_M: torch.Tensor
    terms: tuple[VocabularyTerm, ...]
    hear: Callable[[], Signal | None]


class Grader(Protocol):
    """What makes of a tile of logits the gradient of the terms."""

    def __call__(self, logits_TV: torch.Tensor, at: slice) -> torch.Tensor:
        """Overwrite the logits of the positions `at` of M; return the sum of each term `[K]`."""
        ...


def distillation_loss(
    hidden_ND: torch.Tensor,
    head: Head,
    labels_N: torch.Tensor,
    kept_M: torch.Tensor,
    signal: Signal | None,
    terms: Sequence[VocabularyTerm],
    *,
    dtype: torch.dtype,
) -> Loss:
    """Return the weighted sum of the terms, with gradients for `hidden_ND` and the `head`.

    The teacher has none. Softmax and sums are float32; all is float64 where `hidden_ND` is.
    The teacher's products run in the dtype of its own head: cast that once, if it is to be another.

    Args:
        hidden_ND: the student's last hidden states.
        head: its output projection.
        labels_N: int64, the true next tokens; those of positions that do not count may be anything.
        kept_M: int64 indices of the positions that count, each once.
        signal: what the teacher says of all N positions, or None without one.
        terms: what to minimise; one of weight 0 is reported and has no gradient.
        dtype: of the products with the student's head.

    Raises:
        MismatchError: the signal cannot serve a term, or is over another vocabulary.
    """
    piece = Piece(at_M=kept_M, row_M=kept_M, terms=tuple(terms), hear=lambda: signal)
    found = distillation_losses(hidden_ND, head, labels_N, [piece], dtype=dtype)
    return Loss(found.total, found.parts[0])


def distillation_losses(
    hidden_ND: torch.Tensor,
    head: Head,
    labels_N: torch.Tensor,
    pieces: Sequence[Piece],
    *,
    dtype: torch.dtype,
) -> Losses:
    """Return the loss of a batch in pieces, which share one cast and one gradient of the head.

    Everything else is as in `distillation_loss`.

    Raises:
        MismatchError: a signal cannot serve a term, or is over another vocabulary.
    """
    given = _Given(labels_N, tuple(pieces), head.softcap, dtype)
    learn = torch.is_grad_enabled()
    total, parts_J = _Fused.apply(hidden_ND, head.weight_VT, head.bias_V, given, learn)
    parts = parts_J.split([len(piece.terms) for piece in pieces])
    return Losses(total, tuple(tuple(part_K.unbind()) for part_K in parts))


class _Given(NamedTuple):
    """What the loss is computed from, tensors with gradients aside."""

    labels_N: torch.Tensor
    pieces: tuple[Piece, ...]
    softcap: float | None
    dtype: torch.dtype


class _Fused(torch.autograd.Function):
    """The tiles: (total, the means `[J]` of all pieces' terms, one after another)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        given: _Given,
        learn: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needed = [learn and need for need in ctx.needs_input_grad[:3]]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        dtype = wide if wide == torch.float64 else given.dtype
        head = Head(weight_VD.to(dtype), bias_V, given.softcap)
        count = max(sum(len(piece.at_M) for piece in given.pieces), 1)
        grads = _Gradients(hidden_ND, head, needed, wide, count)
        walk = _Walk(hidden_ND, head, given.labels_N, grads, wide)
        total, means = torch.zeros((), dtype=wide, device=hidden_ND.device), []
        for piece in given.pieces:
            sums_K = walk(piece)
            weight_K = sums_K.new_tensor([term.weight for term in piece.terms])
            total += (weight_K * sums_K).sum() / count
            means.append(sums_K / max(len(piece.at_M), 1))
        means_J = torch.cat(means) if means else total.new_zeros(0)
        ctx.save_for_backward(*grads.found())
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden_ND, weight_VD, bias_V)]
        ctx.mark_non_differentiable(means_J)
        return total, means_J

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = ctx.saved_tensors
        scale, alone = grads[0], _let_go(ctx)
        # The gradient of a head is as large as the head: it is scaled where it lies, if it may be.
        scaled = [
            None if x is None else (x.mul_(scale) if alone else x * scale).to(dtype)
            for x, dtype in zip(found, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


def _let_go(ctx: Any) -> bool:
    """Have autograd give up what it saved; return whether it did, or keeps it for another pass."""
    ctx.maybe_clear_saved_tensors()
    try:
        return not ctx.saved_tensors
    except RuntimeError:
        return True


class _Walk:
    """The way through a batch's tiles, piece by piece, in buffers that all of them use."""

    def __init__(
        self,
        hidden_ND: torch.Tensor,
        head: Head,
        labels_N: torch.Tensor,
        grads: "_Gradients",
        wide: torch.dtype,
    ) -> None:
        self._hidden_ND, self._labels_N = hidden_ND, labels_N
        self._grads, self._wide = grads, wide
        self._project = Projection(head, 0, wide)

    def __call__(self, piece: Piece) -> torch.Tensor:
        """Add a piece's gradient; return the sum of each of its terms `[K]`."""
        head, softcap = self._project.head, self._project.head.softcap
        sums_K = torch.zeros(len(piece.terms), dtype=self._wide, device=self._hidden_ND.device)
        if not piece.terms:
            return sums_K
        signal = piece.hear()
        check(piece.terms, None if signal is None else type(signal))
        check_sizes(piece.terms, signal, len(head.weight_VT))
        if not isinstance(signal, WHOLE):
            signal = None if signal is None else signal.take(piece.row_M)
        rows = tile_rows(len(head.weight_VT), self._hidden_ND.device)
        tiles = cut(_ends(signal, len(piece.at_M)), rows)
        rows = max((at.stop - at.start for at in tiles), default=0)
        self._project.reserve(rows)
        grade = self._grader(piece, signal, rows)
        for at in tiles:
            at_T = piece.at_M[at]
            in_TD = self._hidden_ND.index_select(0, at_T).to(head.weight_VT.dtype)
            logits_TV = self._project(in_TD)
            bend_TV = None
            if softcap is not None:  # the derivative of cap * tanh(. / cap)
                bend_TV = (logits_TV / softcap).square_().neg_().add_(1)
            sums_K += grade(logits_TV, at)
            if self._grads.needed:
                grad_TV = logits_TV if bend_TV is None else logits_TV.mul_(bend_TV)
                self._grads.add(grad_TV, self._project.lowered(grad_TV), in_TD, at_T)
        return sums_K

    def _grader(self, piece: Piece, signal: Signal | None, rows: int) -> Grader:
        labels_M, wide = self._labels_N[piece.at_M], self._wide
        if not isinstance(signal, WHOLE):
            assert signal is None or isinstance(signal, Sparse | Text | Chunks)
            return SparseGrader(signal, labels_M, piece.terms, learn=self._grads.needed, wide=wide)
        if all(isinstance(term, CrossEntropy) for term in piece.terms):
            return SparseGrader(None, labels_M, piece.terms, learn=self._grads.needed, wide=wide)
        return DenseGrader(signal, labels_M, piece.row_M, piece.terms, rows=rows, wide=wide)


def _ends(signal: Signal | None, count: int) -> list[int]:
    """Return where a tile may end: anywhere, but not inside a chunk."""
    if not isinstance(signal, Chunks):
        return list(range(1, count + 1))
    chunk = [*signal.chunk_N.tolist(), -1]
    return [i + 1 for i in range(count) if chunk[i] < 0 or chunk[i] != chunk[i + 1]]


class _Gradients:
    """Sums of gradients over the tiles, of those that are needed, for a mean over all positions.

    Attributes:
        needed: whether any is.
    """

    def __init__(
        self,
        hidden_ND: torch.Tensor,
        head: Head,
        needed: list[bool],
        wide: torch.dtype,
        count: int,
    ) -> None:
        self._weight_VD, self._each, self.needed = head.weight_VT, 1 / count, any(needed)
        size, device = head.weight_VT.shape, hidden_ND.device
        hidden, weight, bias = needed
        self._hidden_ND = torch.zeros_like(hidden_ND, dtype=wide) if hidden else None
        self._head_VD = torch.zeros(size, dtype=wide, device=device) if weight else None
        self._bias_V = torch.zeros(size[0], dtype=wide, device=device) if bias else None

    def add(
        self, wide_TV: torch.Tensor, low_TV: torch.Tensor, in_TD: torch.Tensor, at_T: torch.Tensor
    ) -> None:
        """Add a tile's gradient by the logits, given in both dtypes, at these positions of N."""
        each = self._each
        if self._hidden_ND is not None:
            grad_TD = torch.mm(low_TV, self._weight_VD).to(wide_TV.dtype).mul_(each)
            self._hidden_ND.index_copy_(0, at_T, grad_TD)
        if self._bias_V is not None:
            self._bias_V.add_(wide_TV.sum(0), alpha=each)
        if self._head_VD is None:
            return
        if self._head_VD.dtype == low_TV.dtype:
            self._head_VD.addmm_(low_TV.t(), in_TD, alpha=each)
            return
        # A product of low precision is summed in high: slice by slice, so that it stays small.
        step = max(1, SLICE_ELEMENTS // in_TD.shape[1])
        for start in range(0, len(self._head_VD), step):
            part = slice(start, start + step)
            self._head_VD[part].add_(torch.mm(low_TV[:, part].t(), in_TD), alpha=each)

    def found(self) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by hidden states `[N, D]`, weight `[V, D]` and bias `[V]`."""
        return self._hidden_ND, self._head_VD, self._bias_V
