"""What a teacher says about the next token.

`Hidden` is exact and costs the teacher's head once more, tile by tile; `Dense` is exact and large;
`Sparse` is what a store or an endpoint's top log-probabilities give; `Text` is what a teacher that
only writes gives; `Chunks` speaks across tokenizers. `Mixture` weighs several teachers of one
vocabulary.

Shapes: N positions, P positions taken, T teacher hidden size, V vocabulary, H head entries, R tail
draws, C chunks.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

# The largest float32 below 1.
_LAST = 1 - 2**-24


@dataclass(frozen=True, slots=True)
class Head:
    """What turns a model's last hidden states into logits.

    Logits are `states @ weight.T + bias`, then `softcap * tanh(. / softcap)` where there is a cap
    (Gemma 2 report, arXiv 2408.00118, section 2).

    Attributes:
        weight_VT: `[V, T]`.
        bias_V: `[V]` or None.
        softcap: above 0, or None.
    """

    weight_VT: torch.Tensor
    bias_V: torch.Tensor | None = None
    softcap: float | None = None


class Signal(Protocol):
    """What every kind of signal can do."""

    def take(self, row_P: torch.Tensor) -> "Signal":
        """Return what is said at these positions (int64, on the signal's device)."""
        ...


@dataclass(frozen=True, slots=True)
class Hidden:
    """Exact: the last hidden states, from which the teacher's head rebuilds all logits.

    Attributes:
        states_NT: float32 or bfloat16 `[N, T]`.
        head: the teacher's, one object for all positions.
    """

    states_NT: torch.Tensor
    head: Head

    def take(self, row_P: torch.Tensor) -> "Hidden":
        """Return what is said at these positions."""
        return Hidden(self.states_NT[row_P], self.head)


@dataclass(frozen=True, slots=True)
class Dense:
    """Exact: all logits, up to a constant a row, as a served or a toy teacher may give them.

    Attributes:
        logits_NV: floating point `[N, V]`.
    """

    logits_NV: torch.Tensor

    def take(self, row_P: torch.Tensor) -> "Dense":
        """Return what is said at these positions."""
        return Dense(self.logits_NV[row_P])


@dataclass(frozen=True, slots=True)
class Sparse:
    """The likeliest tokens exactly and a sample of the others: unbiased, about 120 bytes a token.

    For any f, sum_head p f + tail_mass / R * sum_draws f has expectation sum_v p_v f_v
    (random sampling in Anshumann et al., arXiv 2503.16870; here the head is kept exact).

    Without draws (R = 0) what is known is the head and the mass of all the rest: a divergence is
    then taken over the head and one bucket for the rest, which bounds it from below. A head whose
    `tail_mass_N` is 0 stands for the whole distribution.

    Attributes:
        head_ids_NH: int64 `[N, H]`, no token twice in a row; H may be 0 (all sampled).
        head_p_NH: float32 `[N, H]`, probabilities under the full softmax; 0 marks an unused entry.
        tail_ids_NR: int64 `[N, R]`, drawn in proportion to p outside the head; tokens may come
            again.
        tail_mass_N: float32 `[N]`, probability outside the head.
        entropy_N: float32 `[N]`, of the full distribution, nats; NaN where nobody knows it.
    """

    head_ids_NH: torch.Tensor
    head_p_NH: torch.Tensor
    tail_ids_NR: torch.Tensor
    tail_mass_N: torch.Tensor
    entropy_N: torch.Tensor

    def take(self, row_P: torch.Tensor) -> "Sparse":
        """Return what is said at these positions."""
        return Sparse(
            self.head_ids_NH[row_P],
            self.head_p_NH[row_P],
            self.tail_ids_NR[row_P],
            self.tail_mass_N[row_P],
            self.entropy_N[row_P],
        )

    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids `[N, H + R]` and weights `[N, H + R]`, whose rows sum to 1.

        Without draws the head is renormalised, which is biased: `fused_loss` uses the bucket.
        """
        draws = self.tail_ids_NR.shape[1]
        if draws == 0:
            mass_N1 = self.head_p_NH.sum(-1, keepdim=True)
            return self.head_ids_NH, self.head_p_NH / mass_N1
        share_NR = (self.tail_mass_N / draws)[:, None].expand(-1, draws)
        ids_NK = torch.cat([self.head_ids_NH, self.tail_ids_NR], dim=1)
        return ids_NK, torch.cat([self.head_p_NH, share_NR], dim=1)


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens themselves, which stand as labels in the batch; and how likely the teacher was.

    Attributes:
        logp_N: float32 `[N]`, the teacher's log-probability of the token that stands there, nats,
            NaN where unknown; None from a teacher that only writes.
    """

    logp_N: torch.Tensor | None = None

    def take(self, row_P: torch.Tensor) -> "Text":
        """Return what is said at these positions."""
        return Text(None if self.logp_N is None else self.logp_N[row_P])


@dataclass(frozen=True, slots=True)
class Chunks:
    """How likely another tokenizer's teacher finds stretches of bytes that both cut alike.

    A chunk is a run of the student's positions whose targets spell the same bytes as a run of the
    teacher's (Minixhofer et al., arXiv 2503.20083, section 3).

    Attributes:
        chunk_N: int64 `[N]`, the chunk a position's target belongs to, increasing along the text;
            -1 for none.
        logp_C: float32 `[C]`, the teacher's log-probability of each chunk, nats.
    """

    chunk_N: torch.Tensor
    logp_C: torch.Tensor

    def take(self, row_P: torch.Tensor) -> "Chunks":
        """Return what is said at these positions; a chunk that lost a position is no chunk."""
        chunk_P = self.chunk_N[row_P]
        count = len(self.logp_C) + 1  # the last stands for none, which index -1 reaches
        had_C = torch.bincount(self.chunk_N % count, minlength=count)
        has_C = torch.bincount(chunk_P % count, minlength=count)
        whole_P = (had_C == has_C)[chunk_P] & (chunk_P >= 0)
        return Chunks(torch.where(whole_P, chunk_P, -1), self.logp_C)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several teachers of one vocabulary, mixed as probabilities: sum_k weight_k p_k.

    Attributes:
        parts: `(weight, signal)`, weights above 0 that sum to 1; each signal `Hidden` or `Dense`.
    """

    parts: tuple[tuple[float, Hidden | Dense], ...]

    def take(self, row_P: torch.Tensor) -> "Mixture":
        """Return what is said at these positions."""
        return Mixture(tuple((weight, signal.take(row_P)) for weight, signal in self.parts))


def sparsify(
    logits_NV: torch.Tensor, *, head: int, tail: int, generator: torch.Generator
) -> Sparse:
    """Keep the `head` likeliest tokens of each row and draw `tail` of the rest, which may be 0.

    The uniform numbers come from the CPU's `generator`, so every device draws from one sequence.
    """
    p_NV, entropy_N, spare_NV = _probabilities(logits_NV)
    head_p_NH, head_ids_NH = p_NV.topk(head, dim=-1)
    # Head tokens add nothing to the sum, so none of them is drawn.
    cdf_NV = torch.cumsum(p_NV.scatter_(1, head_ids_NH, 0.0), -1, out=spare_NV)
    tail_ids_NR = _draw(cdf_NV, tail, generator)
    return Sparse(head_ids_NH, head_p_NH, tail_ids_NR, cdf_NV[:, -1].clone(), entropy_N)


def sample(logits_NV: torch.Tensor, *, draws: int, generator: torch.Generator) -> Sparse:
    """Draw `draws` tokens of each row in proportion to p: random sampling (arXiv 2503.16870).

    Each token drawn has one entry of the head, `[N, draws]`, whose probability is the share of
    draws that fell on it; the others are unused. The estimate is unbiased and has no tail.
    """
    p_NV, entropy_N, spare_NV = _probabilities(logits_NV)
    cdf_NV = torch.cumsum(p_NV, -1, out=spare_NV)
    ids_NR = _draw(cdf_NV, draws, generator).sort(-1).values
    place_R = torch.arange(draws, device=ids_NR.device)
    first_NR = torch.ones_like(ids_NR, dtype=torch.bool)
    first_NR[:, 1:] = ids_NR[:, 1:] != ids_NR[:, :-1]
    # Each draw counts for the place where its token stands first.
    stands_NR = torch.where(first_NR, place_R, 0).cummax(-1).values
    count_NR = torch.zeros_like(entropy_N[:, None].expand(-1, draws).contiguous())
    count_NR.scatter_add_(1, stands_NR, torch.ones_like(count_NR))
    return Sparse(
        ids_NR,
        count_NR / draws,
        ids_NR[:, :0],
        torch.zeros_like(entropy_N),
        entropy_N,
    )


def _probabilities(
    logits_NV: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the softmax, its entropy in nats, float32, and a matrix that is free to be used.

    New memory costs as much here as the arithmetic, so there are two matrices and no more.
    """
    logp_NV = logits_NV.float().log_softmax(-1)
    p_NV = logp_NV.exp()
    return p_NV, -logp_NV.mul_(p_NV).sum(-1), logp_NV


def _draw(cdf_NV: torch.Tensor, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Return tokens `[N, draws]`: the first place above each draw, so none that adds nothing.

    Draws are systematic: evenly spaced from one random beginning a row. Each token is still drawn
    as often as it is likely, on average, but never far more or less often, so an estimate from 8
    draws varies a sixth less than from independent ones, and from 40 draws almost by half. A row
    that underflowed to nothing looks past the end; its mass is 0.
    """
    begin_N1 = torch.rand(len(cdf_NV), 1, generator=generator).to(cdf_NV.device)
    place_NR = (torch.arange(draws, device=cdf_NV.device) + begin_N1) / max(draws, 1)
    place_NR = place_NR.clamp_max_(_LAST)  # the division may round up to 1, where nothing is
    ids_NR = torch.searchsorted(cdf_NV, place_NR * cdf_NV[:, -1:], right=True)
    return ids_NR.clamp_(max=cdf_NV.shape[1] - 1)
