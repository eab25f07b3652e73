"""Terms against a teacher whose whole distribution is known, tile by tile.

One softmax of the student and one of the teacher serve all terms of a temperature. The formulas
are those of `slopes`.

Shapes: N positions, M that count, T of a tile, R rows of a block of it, V vocabulary, K terms.
"""

import math
from collections.abc import Sequence

import torch

from distill.loss import slopes
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    SampledReverseKL,
    SortedL1,
    VocabularyTerm,
)
from distill.loss.slopes import Pair, Slope, soften
from distill.loss.tiles import Projection, Scratch, blocks
from distill.signals import Dense, Hidden, Mixture


class DenseGrader:
    """What the terms make of a tile, its teacher's logits rebuilt as it goes."""

    def __init__(
        self,
        signal: Hidden | Dense | Mixture,
        labels_M: torch.Tensor,
        kept_M: torch.Tensor,
        terms: Sequence[VocabularyTerm],
        *,
        rows: int,
        wide: torch.dtype,
    ) -> None:
        """Grade tiles of up to `rows` positions; `signal` speaks of all N, kept or not."""
        parts = signal.parts if isinstance(signal, Mixture) else ((1.0, signal),)
        self._parts = [_Part(weight, part, rows, wide) for weight, part in parts]
        self._labels_M1, self._kept_M = labels_M[:, None], kept_M
        self._terms, self._wide = tuple(terms), wide
        self._temperatures = sorted({_temperature(term) for term in terms})
        self._scratch = Scratch(wide, labels_M.device)
        self._usual = len(parts) == 1 and _are_usual(self._terms)

    def __call__(self, logits_TV: torch.Tensor, at: slice) -> torch.Tensor:
        """Turn logits into their gradient, in place; return the sum of each term `[K]`."""
        said = [part.logits(self._kept_M[at]) for part in self._parts]
        labels_T1 = self._labels_M1[at]
        sums_K = torch.zeros(len(self._terms), dtype=self._wide, device=logits_TV.device)
        block = self._usual_block if self._usual else self._block
        for rows in blocks(logits_TV):
            self._scratch.begin()
            teacher = [one_TV[rows] for one_TV in said]
            sums_K += block(logits_TV[rows], teacher, labels_T1[rows])
        return sums_K

    def _usual_block(
        self, logits_RV: torch.Tensor, teacher: list[torch.Tensor], label_R1: torch.Tensor
    ) -> torch.Tensor:
        weights = {type(term): term.weight for term in self._terms}
        both = weights[Divergence], weights.get(CrossEntropy, 0.0)
        found = slopes.usual(logits_RV, teacher[0], label_R1, both, self._scratch)
        sums = {kind: x.sum() for kind, x in zip((Divergence, CrossEntropy), found, strict=True)}
        return torch.stack([sums[type(term)] for term in self._terms])

    def _block(
        self, logits_RV: torch.Tensor, teacher: list[torch.Tensor], label_R1: torch.Tensor
    ) -> torch.Tensor:
        scratch = self._scratch
        sums, weighted = [logits_RV.new_zeros(())] * len(self._terms), []
        keep = len(self._temperatures) > 1
        for temperature in self._temperatures:
            chosen = [
                (place, term)
                for place, term in enumerate(self._terms)
                if _temperature(term) == temperature
            ]
            q = p = soften(logits_RV, temperature, scratch, keep=keep)
            # The cross-entropy looks at q alone; no teacher is softened for it.
            if not all(isinstance(term, CrossEntropy) for _, term in chosen):
                p = self._teacher(teacher, temperature, keep=keep)
            for place, term in chosen:
                value_R1, slope_RV = _slope(term, Pair(*p, *q), label_R1, scratch)
                scale = _scale(term)
                sums[place] = scale * value_R1.sum()
                weighted.append((term.weight * scale / temperature, slope_RV))
        _combine(weighted, logits_RV)
        return torch.stack(sums)

    def _teacher(
        self, logits: list[torch.Tensor], temperature: float, *, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p and p; each part of a mixture is softened by itself."""
        (first, *others), scratch = logits, self._scratch
        logp_RV, p_RV = soften(first, temperature, scratch, keep=keep)
        if not others:
            return logp_RV, p_RV
        logp_RV.add_(math.log(self._parts[0].weight))
        for part, other_RV in zip(self._parts[1:], others, strict=True):
            more_RV, _ = soften(other_RV, temperature, scratch, keep=keep)
            torch.logaddexp(logp_RV, more_RV.add_(math.log(part.weight)), out=logp_RV)
        return logp_RV, torch.exp(logp_RV, out=p_RV)


class _Part:
    """One teacher of a mixture, or the only one."""

    def __init__(self, weight: float, signal: Hidden | Dense, rows: int, wide: torch.dtype) -> None:
        self.weight, self._signal, self._wide = weight, signal, wide
        if isinstance(signal, Hidden):
            self._project: Projection | None = Projection(signal.head, rows, wide)
        else:
            self._project = None
            given_NV = signal.logits_NV
            self._rows_TV = given_NV.new_empty((rows, given_NV.shape[1]))

    def logits(self, row_T: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits at these of its positions `[T, V]`, to be overwritten."""
        if isinstance(self._signal, Hidden):
            assert self._project is not None
            return self._project(self._signal.states_NT[row_T])
        said_NV, rows_TV = self._signal.logits_NV, self._rows_TV[: len(row_T)]
        return torch.index_select(said_NV, 0, row_T, out=rows_TV).to(self._wide)


def _are_usual(terms: Sequence[VocabularyTerm]) -> bool:
    """Whether it is the forward KL, with or without the cross-entropy, at temperature 1."""
    forward = [t for t in terms if isinstance(t, Divergence) and t.kind == "forward_kl"]
    hard = [term for term in terms if isinstance(term, CrossEntropy)]
    alone = len(forward) == 1 and len(hard) <= 1 and len(terms) == len(forward) + len(hard)
    return alone and forward[0].temperature == 1


def _temperature(term: VocabularyTerm) -> float:
    return term.temperature if isinstance(term, Divergence) else 1.0


def _scale(term: VocabularyTerm) -> float:
    squared = isinstance(term, Divergence) and term.squared
    return _temperature(term) ** 2 if squared else 1.0


def _combine(weighted: list[tuple[float, torch.Tensor]], out_RV: torch.Tensor) -> None:
    """Write the weighted sum of the gradients; one without weight costs nothing."""
    counted = [(factor, slope_RV) for factor, slope_RV in weighted if factor]
    if not counted:
        out_RV.zero_()
        return
    factor, slope_RV = counted[0]
    torch.mul(slope_RV, factor, out=out_RV)
    for factor, slope_RV in counted[1:]:
        out_RV.add_(slope_RV, alpha=factor)


def _slope(term: VocabularyTerm, pair: Pair, label_R1: torch.Tensor, scratch: Scratch) -> Slope:
    match term:
        case Divergence():
            return slopes.divergence(term, pair, scratch)
        case CrossEntropy():
            nll_R1 = -pair.logq_RV.gather(1, label_R1)
            return nll_R1, slopes.off_label(pair, label_R1, scratch)
        case SampledReverseKL():
            gap_R1 = pair.logq_RV.gather(1, label_R1) - pair.logp_RV.gather(1, label_R1)
            return gap_R1, slopes.off_label(pair, label_R1, scratch).mul_(-gap_R1)
        case SortedL1():
            return slopes.sorted_l1(pair)
        case ChunkLikelihood():
            raise AssertionError("chunks come from another vocabulary; `check` refuses this")
