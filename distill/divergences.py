"""How far a student's distribution is from its teacher's: the formulas, one row at a time.

These are the definitions; they run in the dtype they are given (float64 in the tests that hold
`fused_loss` to them) and are written from log-probabilities by hand, because `F.kl_div` with
`log_target=True` is outside what torch_npu documents.

Shapes: N positions, V vocabulary, K sparse entries a row.
"""

import torch

from distill.signals import Sparse


def forward_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) `[N]` in nats: what the student q misses of the teacher p."""
    return (logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)


def reverse_kl(logp_NV: torch.Tensor, logq_NV: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p) `[N]` in nats: what the student q says that the teacher p would not."""
    return forward_kl(logq_NV, logp_NV)


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
