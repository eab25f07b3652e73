"""How far a student's distribution is from its teacher's: the formulas, one row at a time.

These are the definitions. The tiles of `dense_grader` are held to them in float64, and
`sparse_grader` differentiates them over the few tokens it knows. They are written by hand from
log-probabilities, because `F.kl_div` with `log_target=True` is outside what torch_npu documents.

Shapes: N positions, V vocabulary (or any set of outcomes that excludes one another), C chunks.
"""

import math

import torch

from distill.loss.objective import Divergence
from distill.signals import Sparse


def forward_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) `[N]` in nats: what the student q misses of the teacher p."""
    return (logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)


def reverse_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p) `[N]` in nats: what the student q says that the teacher p would not."""
    return forward_kl(logq_NV, logp_NV)


def jsd(logp_NV: torch.Tensor, logq_NV: torch.Tensor, mix: float) -> torch.Tensor:
    """Return mix KL(p || m) + (1 - mix) KL(q || m) `[N]`, m = mix p + (1 - mix) q, nats.

    The generalised Jensen-Shannon divergence of Agarwal et al. (arXiv 2306.13649).
    """
    logm_NV = _mixed(logp_NV, logq_NV, mix)
    return mix * forward_kl(logp_NV, logm_NV) + (1 - mix) * forward_kl(logq_NV, logm_NV)


def skew_forward_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor, mix: float) -> torch.Tensor:
    """Return KL(p || mix p + (1 - mix) q) `[N]`, nats (Ko et al., arXiv 2402.03898)."""
    return forward_kl(logp_NV, _mixed(logp_NV, logq_NV, mix))


def skew_reverse_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor, mix: float) -> torch.Tensor:
    """Return KL(q || mix q + (1 - mix) p) `[N]`, nats (Ko et al., arXiv 2402.03898)."""
    return forward_kl(logq_NV, _mixed(logq_NV, logp_NV, mix))


def tvd(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return the total variation distance `[N]`, half the sum of |p - q|, from 0 to 1."""
    return (logp_NV.exp() - logq_NV.exp()).abs().sum(-1) / 2


def adaptive_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return forward and reverse KL `[N]`, weighed by where p and q differ, in nats.

    The head is the fewest likeliest tokens that hold half of p (with all that tie with its last).
    The share of sum |p - q| that falls on it is the forward KL's weight, the rest the reverse
    KL's; both weights are held fixed in the gradient (Wu et al., arXiv 2404.02657).
    """
    with torch.no_grad():
        p_NV = logp_NV.exp()
        sorted_NV = p_NV.sort(-1, descending=True).values
        last_N1 = (sorted_NV.cumsum(-1) < p_NV.sum(-1, keepdim=True) / 2).sum(-1, keepdim=True)
        head_NV = (p_NV >= sorted_NV.gather(-1, last_N1)).to(p_NV.dtype)
        gap_NV = (p_NV - logq_NV.exp()).abs()
        all_N = gap_NV.sum(-1).clamp_min(torch.finfo(p_NV.dtype).tiny)
        head_N = (gap_NV * head_NV).sum(-1) / all_N
    return head_N * forward_kl(logp_NV, logq_NV) + (1 - head_N) * reverse_kl(logp_NV, logq_NV)


_PLAIN = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "tvd": tvd,
    "adaptive_kl": adaptive_kl,
}
_MIXED = {
    "jsd": jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
}


def divergence(term: Divergence, logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return the divergence a term names `[N]`, times temperature^2 where it says so, in nats.

    Both distributions are given as they are at the term's temperature.
    """
    scale = term.temperature**2 if term.squared else 1.0
    if term.mix is None:
        return scale * _PLAIN[term.kind](logp_NV, logq_NV)
    return scale * _MIXED[term.kind](logp_NV, logq_NV, term.mix)


def sorted_l1(p_NV: torch.Tensor, q_NW: torch.Tensor) -> torch.Tensor:
    """Return sum |sorted p - sorted q| `[N]` of probabilities, from 0 to 2.

    The vocabularies may differ in size: the smaller is filled up with zeros (Boizard et al., arXiv
    2402.12030).
    """
    wider = max(p_NV.shape[-1], q_NW.shape[-1])
    p_NV, q_NW = (
        torch.nn.functional.pad(x.sort(-1, descending=True).values, (0, wider - x.shape[-1]))
        for x in (p_NV, q_NW)
    )
    return (p_NV - q_NW).abs().sum(-1)


def sparse_forward_kl(signal: Sparse, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return the unbiased estimate of KL(p || q) `[N]` from head and sampled tail, in nats.

    KL = sum_v p_v (log p_v - log q_v): the first part is the stored entropy, the second the
    sparse cross-entropy, whose expectation over the tail's draws is exact.
    """
    ids_NK, weights_NK = signal.targets()
    cross_N = -(weights_NK.to(logq_NV.dtype) * logq_NV.gather(1, ids_NK)).sum(-1)
    return cross_N - signal.entropy_N.to(logq_NV.dtype)


def cross_entropy(labels_N: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return -log q of the true tokens, `[N]`, nats."""
    return -logq_NV.gather(1, labels_N[:, None]).squeeze(1)


def sampled_reverse_kl(logp_N: torch.Tensor, logq_N: torch.Tensor) -> torch.Tensor:
    """Return log q(y) - log p(y) `[N]`, nats, of the tokens y that stand there; 0 for a NaN in p.

    The value is KL(q || p) in expectation over the student's own y. The gradient is the policy
    gradient (log q(y) - log p(y)) grad log q(y), which is not the gradient of the value.
    """
    gap_N = torch.where(logp_N.isnan(), 0.0, logq_N.detach() - logp_N)
    return gap_N + gap_N * (logq_N - logq_N.detach())


def chunk_likelihood(
    logp_C: torch.Tensor, logq_C: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the binary forward KL between two likelihoods of a chunk, `[C]`, nats.

    Both to the power 1 / temperature (Minixhofer et al., arXiv 2503.20083). A chunk
    that is all but certain counts as 1e-7 short of it, or its complement would have no logarithm.
    """
    logp_C, logq_C = ((x / temperature).clamp(max=-1e-7) for x in (logp_C, logq_C))
    not_p_C, not_q_C = (-torch.expm1(x) for x in (logp_C, logq_C))
    return logp_C.exp() * (logp_C - logq_C) + not_p_C * (not_p_C.log() - not_q_C.log())


def _mixed(logp_NV: torch.Tensor, logq_NV: torch.Tensor, mix: float) -> torch.Tensor:
    """Return log(mix p + (1 - mix) q), which does not underflow."""
    return torch.logaddexp(logp_NV + math.log(mix), logq_NV + math.log1p(-mix))
