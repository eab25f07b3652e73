"""The loss over the vocabulary and its gradient, without ever holding `[N, V]` logits.

The gradient is taken tile by tile in the forward pass and the tile of logits thrown away (the idea
of Liger-Kernel's fused linear losses, arXiv 2410.10989): a position costs three products with the
student's head and one with the teacher's, whatever the terms. Masked positions are left out before
the first product. What the terms make of a tile is `dense_grader`'s, where a teacher's whole
distribution is known, and `sparse_grader`'s elsewhere.

Shapes: N positions, M that count, T of a tile, D hidden size, V vocabulary, J terms.
"""

from collections.abc import Sequence
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


class Grader(Protocol):
    """What makes of a tile of logits the gradient of the terms."""

    def __call__(self, logits_TV: torch.Tensor, at: slice) -> torch.Tensor:
        """Overwrite the logits of the positions `at` of M; return the sum of each term `[J]`."""
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
    check(terms, None if signal is None else type(signal))
    check_sizes(terms, signal, len(head.weight_VT))
    if not terms:
        return Loss(hidden_ND.sum() * 0, ())
    given = _Given(labels_N, kept_M, signal, tuple(terms), head.softcap, dtype)
    learn = torch.is_grad_enabled()
    total, parts_J = _Fused.apply(hidden_ND, head.weight_VT, head.bias_V, given, learn)
    return Loss(total, tuple(parts_J.unbind()))


class _Given(NamedTuple):
    """What the loss is computed from, tensors with gradients aside."""

    labels_N: torch.Tensor
    kept_M: torch.Tensor
    signal: Signal | None
    terms: tuple[VocabularyTerm, ...]
    softcap: float | None
    dtype: torch.dtype


class _Fused(torch.autograd.Function):
    """The tiles: (total, the terms' means `[J]`)."""

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
        hidden_MD = hidden_ND.index_select(0, given.kept_M).to(dtype)
        head = Head(weight_VD.to(dtype), bias_V, given.softcap)
        grads = _Gradients(hidden_MD, head, needed, wide)
        sums_J = _walk(hidden_MD, head, given, grads, wide)
        means_J = sums_J / max(len(given.kept_M), 1)
        total = sum(
            (t.weight * mean for t, mean in zip(given.terms, means_J.unbind(), strict=True)),
            start=means_J.new_zeros(()),
        )
        ctx.save_for_backward(given.kept_M, *grads.means())
        ctx.shape = hidden_ND.shape
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden_ND, weight_VD, bias_V)]
        ctx.mark_non_differentiable(means_J)
        return total, means_J

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept_M, *means = ctx.saved_tensors
        scale, alone = grads[0], _let_go(ctx)
        # The gradient of a head is as large as the head: it is scaled where it lies, if it may be.
        scaled = [
            None if x is None else (x.mul_(scale) if alone else x * scale).to(dtype)
            for x, dtype in zip(means, ctx.dtypes, strict=True)
        ]
        grad_MD, grad_VD, grad_V = scaled
        grad_ND = None
        if grad_MD is not None:
            grad_ND = grad_MD.new_zeros(ctx.shape).index_copy_(0, kept_M, grad_MD)
        return grad_ND, grad_VD, grad_V, None, None


def _let_go(ctx: Any) -> bool:
    """Have autograd give up what it saved; return whether it did, or keeps it for another pass."""
    ctx.maybe_clear_saved_tensors()
    try:
        return not ctx.saved_tensors
    except RuntimeError:
        return True


def _walk(
    hidden_MD: torch.Tensor, head: Head, given: _Given, grads: "_Gradients", wide: torch.dtype
) -> torch.Tensor:
    """Go through the tiles, adding to `grads`; return the sum of each term `[J]`."""
    signal = given.signal
    if not isinstance(signal, WHOLE):
        signal = None if signal is None else signal.take(given.kept_M)
    rows = tile_rows(len(head.weight_VT), hidden_MD.device)
    tiles = cut(_ends(signal, len(hidden_MD)), rows)
    rows = max((at.stop - at.start for at in tiles), default=0)
    project = Projection(head, rows, wide)
    grade = _grader(given, signal, rows, wide, grads.needed)
    sums_J = torch.zeros(len(given.terms), dtype=wide, device=hidden_MD.device)
    for at in tiles:
        logits_TV = project(hidden_MD[at])
        bend_TV = None
        if head.softcap is not None:  # the derivative of cap * tanh(. / cap)
            bend_TV = (logits_TV / head.softcap).square_().neg_().add_(1)
        sums_J += grade(logits_TV, at)
        if grads.needed:
            grad_TV = logits_TV if bend_TV is None else logits_TV.mul_(bend_TV)
            grads.add(grad_TV, project.lowered(grad_TV), at)
    return sums_J


def _ends(signal: Signal | None, count: int) -> list[int]:
    """Return where a tile may end: anywhere, but not inside a chunk."""
    if not isinstance(signal, Chunks):
        return list(range(1, count + 1))
    chunk = [*signal.chunk_N.tolist(), -1]
    return [i + 1 for i in range(count) if chunk[i] < 0 or chunk[i] != chunk[i + 1]]


def _grader(
    given: _Given, signal: Signal | None, rows: int, wide: torch.dtype, learn: bool
) -> Grader:
    labels_M = given.labels_N[given.kept_M]
    if not isinstance(signal, WHOLE):
        assert signal is None or isinstance(signal, Sparse | Text | Chunks)
        return SparseGrader(signal, labels_M, given.terms, learn=learn, wide=wide)
    if all(isinstance(term, CrossEntropy) for term in given.terms):
        return SparseGrader(None, labels_M, given.terms, learn=learn, wide=wide)
    return DenseGrader(signal, labels_M, given.kept_M, given.terms, rows=rows, wide=wide)


class _Gradients:
    """Sums of gradients over the tiles, of those that are needed.

    Attributes:
        needed: whether any is.
    """

    def __init__(
        self, hidden_MD: torch.Tensor, head: Head, needed: list[bool], wide: torch.dtype
    ) -> None:
        self._in_MD, self._weight_VD, self.needed = hidden_MD, head.weight_VT, any(needed)
        size = head.weight_VT.shape
        device = hidden_MD.device
        hidden, weight, bias = needed
        self._hidden_MD = torch.empty_like(hidden_MD, dtype=wide) if hidden else None
        self._head_VD = torch.zeros(size, dtype=wide, device=device) if weight else None
        self._bias_V = torch.zeros(size[0], dtype=wide, device=device) if bias else None

    def add(self, wide_TV: torch.Tensor, low_TV: torch.Tensor, at: slice) -> None:
        """Add a tile's gradient by the logits, given in both dtypes."""
        each = 1 / len(self._in_MD)
        in_TD = self._in_MD[at]
        if self._hidden_MD is not None:
            self._hidden_MD[at] = torch.mm(low_TV, self._weight_VD).mul_(each)
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

    def means(self) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by hidden states `[M, D]`, weight `[V, D]` and bias `[V]`."""
        return self._hidden_MD, self._head_VD, self._bias_V
