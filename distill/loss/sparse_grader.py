"""Terms that look at few tokens a row: a sparse teacher's, the text's, or stretches of it.

Such a term is a function of log q at those tokens and, where a divergence needs every outcome, of
the log of the mass of all others, as one bucket. Autograd differentiates the definitions of
`divergences` by these few numbers. By the logits, the gradient is then g at each token less q times
the sum of all g, and what the bucket got is shared among its tokens as q shares it.

Shapes: M positions, T of a tile, V vocabulary, H head entries, R tail draws, K tokens a row, O
outcomes (H + 1), C chunks, J terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from distill.loss import divergences
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    SampledReverseKL,
    SortedL1,
    VocabularyTerm,
)
from distill.loss.tiles import blocks
from distill.signals import Chunks, Sparse, Text

# The least that the rest of q and the tail of p count as, so that both have a logarithm: what
# float32 can still divide by, and less than the store's float16 can tell from 0.
_LEAST_REST, _LEAST_TAIL = 1e-30, 1e-12
# The log-probability of an unused entry, in both distributions, so that it adds nothing.
_UNUSED = -100.0


class _Known(NamedTuple):
    """What the terms may look at: log q of the tokens, of the rest of them, and of q's likeliest.

    `tokens_TK` are the teacher's head, its tail's draws and the label; `top_TH` has no entry where
    no term asks for it.
    """

    tokens_TK: torch.Tensor
    rest_T1: torch.Tensor
    top_TH: torch.Tensor


class SparseGrader:
    """What the terms make of a tile."""

    def __init__(
        self,
        signal: Sparse | Text | Chunks | None,
        labels_M: torch.Tensor,
        terms: Sequence[VocabularyTerm],
        *,
        learn: bool,
        wide: torch.dtype,
    ) -> None:
        """Grade tiles of the positions of `signal`; without `learn` no gradient is made."""
        self._terms, self._learn, self._signal = tuple(terms), learn, signal
        self._teacher = _Teacher.of(signal, wide) if isinstance(signal, Sparse) else None
        heads_MH = labels_M.new_empty(len(labels_M), 0)
        ids_MK = labels_M[:, None]
        if isinstance(signal, Sparse):
            heads_MH = signal.head_ids_NH
            ids_MK = torch.cat([heads_MH, signal.tail_ids_NR, ids_MK], dim=1)
        self._heads_MH, self._ids_MK = heads_MH, ids_MK
        self._bucket = any(self._needs_bucket(term) for term in terms)
        self._top = any(isinstance(term, SortedL1) for term in terms)

    def __call__(self, logits_TV: torch.Tensor, at: slice) -> torch.Tensor:
        """Turn logits into their gradient, in place; return the sum of each term `[J]`."""
        heads_TH, ids_TK = self._heads_MH[at], self._ids_MK[at]
        logq_TK = logits_TV.gather(1, ids_TK)
        top_T1, sum_T1 = exponentiate(logits_TV)
        logq_TK -= top_T1 + sum_T1.log()
        best_TH = heads_TH[:, :0]
        if self._top:
            best_TH = torch.topk(logits_TV, heads_TH.shape[1], dim=-1).indices
        best_q_TH = logits_TV.gather(1, best_TH) / sum_T1
        rest_T1 = torch.ones_like(sum_T1)
        if self._bucket:
            # Taken out of the tile exactly, so a small rest is not lost in 1 - (1 - rest).
            logits_TV.scatter_add_(1, heads_TH, -logits_TV.gather(1, heads_TH) * self._used(at))
            rest_T1 = (logits_TV.sum(-1, keepdim=True) / sum_T1).clamp_min_(_LEAST_REST)
        best_logq_TH = best_q_TH.clamp_min_(_LEAST_REST).log_()
        known = _Known(logq_TK, rest_T1.log(), best_logq_TH)
        sums_J, slope = self._differentiate(known, at)
        if slope is None:
            return sums_J
        whole_T1 = slope.tokens_TK.sum(1, keepdim=True) + slope.top_TH.sum(1, keepdim=True)
        whole_T1 = whole_T1 + slope.rest_T1
        share_T1, tokens_TK = -whole_T1, slope.tokens_TK
        if self._bucket:
            share_T1 = share_T1 + slope.rest_T1 / rest_T1
            heads = heads_TH.shape[1]
            tokens_TK[:, :heads] -= logq_TK[:, :heads].exp() * self._used(at) * whole_T1
        logits_TV.mul_(share_T1 / sum_T1)
        logits_TV.scatter_add_(1, ids_TK, tokens_TK).scatter_add_(1, best_TH, slope.top_TH)
        return sums_J

    def _used(self, at: slice) -> torch.Tensor:
        assert self._teacher is not None
        return self._teacher.used_MH[at].to(self._teacher.head_p_MH.dtype)

    def _differentiate(self, known: _Known, at: slice) -> tuple[torch.Tensor, _Known | None]:
        """Return the terms' sums `[J]` and the gradient of their weighted total."""
        if not self._learn:
            return torch.stack([self._sum(term, known, at) for term in self._terms]), None
        with torch.enable_grad():
            known = _Known(*(x.detach().requires_grad_() for x in known))
            sums = [self._sum(term, known, at) for term in self._terms]
            parts = [term.weight * x for term, x in zip(self._terms, sums, strict=True)]
            slope = torch.autograd.grad(torch.stack(parts).sum(), known, materialize_grads=True)
        return torch.stack(sums).detach(), _Known(*slope)

    def _sum(self, term: VocabularyTerm, known: _Known, at: slice) -> torch.Tensor:
        label_T = known.tokens_TK[:, -1]
        match term:
            case CrossEntropy():
                return -label_T.sum()
            case SampledReverseKL():
                assert isinstance(self._signal, Text) and self._signal.logp_N is not None
                logp_T = self._signal.logp_N[at].to(label_T.dtype)
                return divergences.sampled_reverse_kl(logp_T, label_T).sum()
            case ChunkLikelihood():
                assert isinstance(self._signal, Chunks)
                return _chunks(self._signal, label_T, at, term.temperature)
        assert self._teacher is not None
        if isinstance(term, SortedL1):
            return self._teacher.sorted_l1(known, at)
        if self._needs_bucket(term):
            return self._teacher.over_outcomes(term, known, at)
        return self._teacher.forward_kl(known, at)

    def _needs_bucket(self, term: VocabularyTerm) -> bool:
        if not isinstance(term, Divergence) or self._teacher is None:
            return False
        return term.kind != "forward_kl" or self._teacher.draws == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Teacher:
    """A sparse signal, ready for the terms.

    Attributes:
        head_p_MH: its probabilities.
        used_MH: which of its entries are any.
        share_M: of p that one draw stands for.
        entropy_M: of the full distribution; where nobody knows it, of its outcomes, so that
            `forward_kl` is too large by what the tail's own entropy is in p.
        logp_MO: log-probabilities of head and bucket.
        draws: how many from the tail.
    """

    head_p_MH: torch.Tensor
    used_MH: torch.Tensor
    share_M: torch.Tensor
    entropy_M: torch.Tensor
    logp_MO: torch.Tensor
    draws: int

    @classmethod
    def of(cls, signal: Sparse, wide: torch.dtype) -> "_Teacher":
        """Prepare a signal, computing in `wide`."""
        head_p_MH, tail_M = signal.head_p_NH.to(wide), signal.tail_mass_N.to(wide)
        used_MH = head_p_MH > 0
        head_logp_MH = head_p_MH.clamp_min(_LEAST_REST).log().masked_fill(~used_MH, _UNUSED)
        tail_logp_M1 = tail_M.clamp_min(_LEAST_TAIL).log()[:, None]
        logp_MO = torch.cat([head_logp_MH, tail_logp_M1], dim=1)
        entropy_M, draws = signal.entropy_N.to(wide), signal.tail_ids_NR.shape[1]
        of_outcomes_M = -(logp_MO.exp() * logp_MO).sum(-1)
        return cls(
            head_p_MH=head_p_MH,
            used_MH=used_MH,
            share_M=tail_M / max(draws, 1),
            entropy_M=torch.where(entropy_M.isnan(), of_outcomes_M, entropy_M),
            logp_MO=logp_MO,
            draws=draws,
        )

    def forward_kl(self, known: _Known, at: slice) -> torch.Tensor:
        """Return the unbiased estimate from head and draws, summed."""
        heads = self.head_p_MH.shape[1]
        head_TH, tail_TR = known.tokens_TK[:, :heads], known.tokens_TK[:, heads:-1]
        cross_T = (self.head_p_MH[at] * head_TH).sum(-1) + self.share_M[at] * tail_TR.sum(-1)
        return -(cross_T + self.entropy_M[at]).sum()

    def over_outcomes(self, term: Divergence, known: _Known, at: slice) -> torch.Tensor:
        """Return the divergence between head and bucket of both, summed."""
        heads = self.head_p_MH.shape[1]
        head_TH = known.tokens_TK[:, :heads].masked_fill(~self.used_MH[at], _UNUSED)
        logq_TO = torch.cat([head_TH, known.rest_T1], dim=1)
        return divergences.divergence(term, self.logp_MO[at], logq_TO).sum()

    def sorted_l1(self, known: _Known, at: slice) -> torch.Tensor:
        """Return the head against as many of the student's likeliest, summed."""
        p_TH = self.head_p_MH[at].sort(-1, descending=True).values
        return ((p_TH - known.top_TH.exp()).abs() * (p_TH > 0)).sum()


def exponentiate(logits_TV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits into exp(logits - max) in place; return max and sum, both `[T, 1]`."""
    tops, sums = [], []
    for rows in blocks(logits_TV):
        block_RV = logits_TV[rows]
        top_R1 = block_RV.amax(-1, keepdim=True)
        sums.append(block_RV.sub_(top_R1).exp_().sum(-1, keepdim=True))
        tops.append(top_R1)
    return torch.cat(tops), torch.cat(sums)


def _chunks(signal: Chunks, label_T: torch.Tensor, at: slice, temperature: float) -> torch.Tensor:
    """Return the chunks of a tile, scaled so that the mean over positions is one over chunks."""
    count = len(signal.logp_C) + 1  # the last stands for none
    all_M, here_T = signal.chunk_N % count, signal.chunk_N[at] % count
    there_C = torch.bincount(all_M, minlength=count)[:-1] > 0
    chunks = there_C.sum().clamp_min(1)
    empty_C = label_T.new_zeros(count)
    has_C = empty_C.index_add(0, here_T, torch.ones_like(label_T))[:-1] > 0
    logq_C = empty_C.index_add(0, here_T, label_T)[:-1]
    value_C = divergences.chunk_likelihood(signal.logp_C.to(logq_C.dtype), logq_C, temperature)
    return (value_C * has_C).sum() * len(all_M) / chunks
