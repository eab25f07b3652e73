"""What a teacher says about the next token.

Shapes: N positions, T teacher hidden size, V vocabulary, H head entries, R tail draws.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Hidden:
    """Exact: the last hidden states, from which the teacher's head rebuilds all logits.

    Attributes:
        states_NT: float32 or bfloat16 `[N, T]`.
    """

    states_NT: torch.Tensor


@dataclass(frozen=True, slots=True)
class Sparse:
    """The likeliest tokens exactly and a sample of the others: unbiased, about 120 bytes a token.

    For any f, sum_head p f + tail_mass / R * sum_draws f has expectation sum_v p_v f_v
    (random sampling in Anshumann et al., arXiv 2503.16870; here the head is kept exact).

    Attributes:
        head_ids_NH: int64 `[N, H]`.
        head_p_NH: float32 `[N, H]`, probabilities under the full softmax.
        tail_ids_NR: int64 `[N, R]`, drawn with replacement in proportion to p outside the head.
        tail_mass_N: float32 `[N]`, probability outside the head.
        entropy_N: float32 `[N]`, of the full distribution, nats.
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
        """Return ids `[N, H + R]` and weights `[N, H + R]`, whose rows sum to 1."""
        draws = self.tail_ids_NR.shape[1]
        if draws == 0:
            mass_N1 = self.head_p_NH.sum(-1, keepdim=True)
            return self.head_ids_NH, self.head_p_NH / mass_N1
        share_NR = (self.tail_mass_N / draws)[:, None].expand(-1, draws)
        ids_NK = torch.cat([self.head_ids_NH, self.tail_ids_NR], dim=1)
        return ids_NK, torch.cat([self.head_p_NH, share_NR], dim=1)


def sparsify(
    logits_NV: torch.Tensor, *, head: int, tail: int, generator: torch.Generator
) -> Sparse:
    """Keep the `head` likeliest tokens of each row and draw `tail` of the rest.

    The uniform numbers come from the CPU's `generator`, so every device draws from one sequence.
    A draw is an inverse look-up in the cumulated tail, far cheaper than torch.multinomial.
    """
    logp_NV = logits_NV.float().log_softmax(-1)
    p_NV = logp_NV.exp()
    entropy_N = -(p_NV * logp_NV).sum(-1)
    head_p_NH, head_ids_NH = p_NV.topk(head, dim=-1)
    cdf_NV = p_NV.scatter_(1, head_ids_NH, 0.0).cumsum(-1)
    uniform_NR = torch.rand(len(cdf_NV), tail, generator=generator).to(cdf_NV.device)
    # The first place above the draw, so never a head token: those add nothing to the sum. A row
    # whose tail underflowed to nothing looks past the end; its mass is 0.
    tail_ids_NR = torch.searchsorted(cdf_NV, uniform_NR * cdf_NV[:, -1:], right=True)
    tail_ids_NR.clamp_(max=cdf_NV.shape[1] - 1)
    return Sparse(head_ids_NH, head_p_NH, tail_ids_NR, cdf_NV[:, -1].clone(), entropy_N)
