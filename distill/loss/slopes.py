"""Divergences as values and gradients, worked out by hand for the tiles of `dense_grader`.

With u = dD / d log q, the gradient with respect to the student's logits is u - q sum(u).
`divergences` has the definitions, and the tests hold one to the other. On a CPU a block is in the
cache, so a pass over it costs a tenth of a nanosecond an element, twice that where exp is taken;
`torch.where` and comparisons that yield booleans cost tens of times that and are left out.

Shapes: R rows, V vocabulary. A value is `[R, 1]`, a gradient `[R, V]`.
"""

import math
from typing import NamedTuple

import torch

from distill.loss.objective import Divergence
from distill.loss.tiles import Scratch

Slope = tuple[torch.Tensor, torch.Tensor]


class Pair(NamedTuple):
    """Teacher p and student q at some positions, as logs and as probabilities, `[R, V]`.

    The teacher's vocabulary may be another one for `sorted_l1` alone.
    """

    logp_RV: torch.Tensor
    p_RV: torch.Tensor
    logq_RV: torch.Tensor
    q_RV: torch.Tensor


def soften(
    logits_RV: torch.Tensor, temperature: float, scratch: Scratch, *, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and probabilities, both `[R, V]`, of logits / temperature.

    The first take the place of the logits unless those are to be kept.
    """
    logp_RV = scratch.take(logits_RV) if keep else logits_RV
    if temperature != 1:
        logits_RV = torch.div(logits_RV, temperature, out=logp_RV)
    torch.sub(logits_RV, logits_RV.amax(-1, keepdim=True), out=logp_RV)
    p_RV = torch.exp(logp_RV, out=scratch.take(logp_RV))
    sum_R1 = p_RV.sum(-1, keepdim=True)
    return logp_RV.sub_(sum_R1.log()), p_RV.div_(sum_R1)


def _forward_kl(pair: Pair, scratch: Scratch) -> Slope:
    gap_RV = torch.sub(pair.logp_RV, pair.logq_RV, out=scratch.take(pair.q_RV))
    value_R1 = gap_RV.mul_(pair.p_RV).sum(-1, keepdim=True)
    return value_R1, torch.sub(pair.q_RV, pair.p_RV, out=gap_RV)


def _reverse_kl(pair: Pair, scratch: Scratch) -> Slope:
    gap_RV = torch.sub(pair.logq_RV, pair.logp_RV, out=scratch.take(pair.q_RV))
    value_R1 = _dot(pair.q_RV, gap_RV, scratch)
    return value_R1, gap_RV.sub_(value_R1).mul_(pair.q_RV)


def _jsd(pair: Pair, mix: float, scratch: Scratch) -> Slope:
    m_RV = _above_zero(torch.lerp(pair.q_RV, pair.p_RV, mix, out=scratch.take(pair.q_RV)))
    logm_RV, gap_RV = m_RV.log_(), scratch.take(pair.q_RV)
    torch.sub(pair.logp_RV, logm_RV, out=gap_RV)
    of_p_R1 = gap_RV.mul_(pair.p_RV).sum(-1, keepdim=True)
    torch.sub(pair.logq_RV, logm_RV, out=gap_RV)
    of_q_R1 = torch.mul(gap_RV, pair.q_RV, out=logm_RV).sum(-1, keepdim=True)
    slope_RV = gap_RV.sub_(of_q_R1).mul_(pair.q_RV).mul_(1 - mix)
    return mix * of_p_R1 + (1 - mix) * of_q_R1, slope_RV


def _skew_forward_kl(pair: Pair, mix: float, scratch: Scratch) -> Slope:
    m_RV = _above_zero(torch.lerp(pair.q_RV, pair.p_RV, mix, out=scratch.take(pair.q_RV)))
    gap_RV = torch.log(m_RV, out=scratch.take(pair.q_RV))
    torch.sub(pair.logp_RV, gap_RV, out=gap_RV)
    value_R1 = gap_RV.mul_(pair.p_RV).sum(-1, keepdim=True)
    u_RV = torch.div(pair.p_RV, m_RV, out=gap_RV).mul_(pair.q_RV).mul_(mix - 1)
    return value_R1, _project_out(u_RV, pair.q_RV)


def _skew_reverse_kl(pair: Pair, mix: float, scratch: Scratch) -> Slope:
    m_RV = _above_zero(torch.lerp(pair.p_RV, pair.q_RV, mix, out=scratch.take(pair.q_RV)))
    gap_RV = torch.log(m_RV, out=scratch.take(pair.q_RV))
    torch.sub(pair.logq_RV, gap_RV, out=gap_RV)
    value_R1 = _dot(pair.q_RV, gap_RV, scratch)
    u_RV = gap_RV.sub_(torch.div(pair.q_RV, m_RV, out=m_RV), alpha=mix).mul_(pair.q_RV)
    return value_R1, _project_out(u_RV, pair.q_RV)


def _tvd(pair: Pair, scratch: Scratch) -> Slope:
    gap_RV = torch.sub(pair.q_RV, pair.p_RV, out=scratch.take(pair.q_RV))
    value_R1 = torch.abs(gap_RV, out=scratch.take(pair.q_RV)).sum(-1, keepdim=True) / 2
    return value_R1, _project_out(gap_RV.sign_().mul_(pair.q_RV).div_(2), pair.q_RV)


def _adaptive_kl(pair: Pair, scratch: Scratch) -> Slope:
    # Twice how much of the gap is in the head, less all of it: from signs, as a mask is slow.
    gap_RV = torch.sub(pair.p_RV, pair.q_RV, out=scratch.take(pair.q_RV)).abs_()
    all_R1 = _above_zero(gap_RV.sum(-1, keepdim=True))
    side_RV = torch.sub(pair.logp_RV, _half_level(pair, scratch), out=scratch.take(pair.q_RV))
    side_RV.sign_().add_(0.5).sign_()  # what lies on the level is in the head
    head_R1 = (1 + side_RV.mul_(gap_RV).sum(-1, keepdim=True) / all_R1) / 2
    forward_R1, forward_RV = _forward_kl(pair, scratch)
    reverse_R1, reverse_RV = _reverse_kl(pair, scratch)
    slope_RV = torch.lerp(reverse_RV, forward_RV, head_R1, out=gap_RV)
    return torch.lerp(reverse_R1, forward_R1, head_R1), slope_RV


def _half_level(pair: Pair, scratch: Scratch) -> torch.Tensor:
    """Return a log-probability `[R, 1]` down to which the likeliest tokens hold half of p.

    By bisection, as sorting takes ten times as long: the last of those tokens is at most the
    likeliest and at least log(1 / 2V), as tokens below that cannot hold half of p.
    """
    logp_RV, above_RV = pair.logp_RV, scratch.take(pair.logp_RV)
    high_R1 = logp_RV.amax(-1, keepdim=True)
    low_R1 = torch.full_like(high_R1, math.log(0.5 / logp_RV.shape[-1]))
    # From a range of 12 nats down to where float32 (or float64) tells log-probabilities apart.
    for _ in range(24 if logp_RV.dtype == torch.float32 else 48):
        middle_R1 = (low_R1 + high_R1) / 2
        torch.sub(logp_RV, middle_R1, out=above_RV).sign_()
        enough_R1 = above_RV.mul_(pair.p_RV).sum(-1, keepdim=True) >= 0
        low_R1 = torch.where(enough_R1, middle_R1, low_R1)
        high_R1 = torch.where(enough_R1, high_R1, middle_R1)
    return low_R1


_PLAIN = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "tvd": _tvd,
    "adaptive_kl": _adaptive_kl,
}
_MIXED = {
    "jsd": _jsd,
    "skew_forward_kl": _skew_forward_kl,
    "skew_reverse_kl": _skew_reverse_kl,
}


def usual(
    logits_RV: torch.Tensor,
    teacher_RV: torch.Tensor,
    label_R1: torch.Tensor,
    weights: tuple[float, float],
    scratch: Scratch,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return forward KL and cross-entropy, each `[R, 1]`: what most runs minimise.

    Both logits are overwritten, the first by the gradient of the weighted sum. As neither softmax
    is divided by its sum before the end, this takes two thirds of the time.
    """
    logits_RV.sub_(logits_RV.amax(-1, keepdim=True))
    teacher_RV.sub_(teacher_RV.amax(-1, keepdim=True))
    label_logit_R1 = logits_RV.gather(1, label_R1)
    p_RV = torch.exp(teacher_RV, out=scratch.take(teacher_RV))
    p_sum_R1 = p_RV.sum(-1, keepdim=True)
    gap_R1 = teacher_RV.sub_(logits_RV).mul_(p_RV).sum(-1, keepdim=True) / p_sum_R1
    q_sum_R1 = logits_RV.exp_().sum(-1, keepdim=True)
    soft, hard = weights
    logits_RV.mul_((soft + hard) / q_sum_R1).addcmul_(p_RV, 1 / p_sum_R1, value=-soft)
    logits_RV.scatter_add_(1, label_R1, torch.full_like(label_logit_R1, -hard))
    return gap_R1 + (q_sum_R1 / p_sum_R1).log(), q_sum_R1.log() - label_logit_R1


def divergence(term: Divergence, pair: Pair, scratch: Scratch) -> Slope:
    """Return the divergence a term names, without its weight, and its gradient."""
    if term.mix is None:
        return _PLAIN[term.kind](pair, scratch)
    return _MIXED[term.kind](pair, term.mix, scratch)


def sorted_l1(pair: Pair) -> Slope:
    """Return sum |sorted p - sorted q| and its gradient; sorting costs more than the products."""
    vocab = pair.q_RV.shape[-1]
    p_RV = pair.p_RV.sort(-1, descending=True).values
    q_RV, ids_RV = pair.q_RV.sort(-1, descending=True)
    beyond_R1 = p_RV[:, vocab:].sum(-1, keepdim=True)
    p_RV = torch.nn.functional.pad(p_RV[:, :vocab], (0, max(vocab - p_RV.shape[-1], 0)))
    gap_RV = q_RV - p_RV
    value_R1 = gap_RV.abs().sum(-1, keepdim=True) + beyond_R1
    u_RV = torch.empty_like(gap_RV).scatter_(1, ids_RV, gap_RV.sign_().mul_(q_RV))
    return value_R1, _project_out(u_RV, pair.q_RV)


def off_label(pair: Pair, label_R1: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """Return q less one at the label, the gradient of the cross-entropy."""
    minus_R1 = torch.full_like(label_R1, -1.0, dtype=pair.q_RV.dtype)
    return scratch.take(pair.q_RV).copy_(pair.q_RV).scatter_add_(1, label_R1, minus_R1)


def _dot(left_RV: torch.Tensor, right_RV: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    return torch.mul(left_RV, right_RV, out=scratch.take(left_RV)).sum(-1, keepdim=True)


def _project_out(u_RV: torch.Tensor, q_RV: torch.Tensor) -> torch.Tensor:
    """Return u - q sum(u): a derivative by log q as one by the logits; overwrites u."""
    return u_RV.addcmul_(q_RV, u_RV.sum(-1, keepdim=True), value=-1)


def _above_zero(x: torch.Tensor) -> torch.Tensor:
    """Keep what underflowed off 0, where a log or a quotient would be no number."""
    return x.clamp_min_(torch.finfo(x.dtype).tiny)
