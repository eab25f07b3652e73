"""What a model's head makes of its last hidden states, and a head made to fit another table.

Shapes: N positions, P of them at once, V rows of the head, T its hidden size, K rows kept.
"""

import torch

from distill.signals import Head

# Logit of a row no teacher has: its probability underflows to 0, while 0 times its logarithm is 0
# and not NaN, as it would be with infinity.
NEVER = -1e4
_ROWS = 128


def fit(head: Head, rows: int) -> Head:
    """Return `head` with `rows` rows: cut, or filled up with rows of probability 0.

    Filled rows get the logit `NEVER`, or minus the cap where logits are capped, which is as low
    as that model can say.
    """
    more = rows - len(head.weight_VT)
    if more <= 0:
        bias_K = None if head.bias_V is None else head.bias_V[:rows]
        return Head(head.weight_VT[:rows], bias_K, head.softcap)
    bias_V = head.weight_VT.new_zeros(rows - more) if head.bias_V is None else head.bias_V
    return Head(
        torch.cat([head.weight_VT, head.weight_VT.new_zeros(more, head.weight_VT.shape[1])]),
        torch.cat([bias_V, bias_V.new_full((more,), NEVER)]),
        head.softcap,
    )


def logits(states_NT: torch.Tensor, head: Head) -> torch.Tensor:
    """Return a teacher's logits `[N, V]` in float32, or float64 for a head in float64.

    The product runs in the dtype of the head's weight.
    """
    weight_VT = head.weight_VT
    made_NV = states_NT.to(weight_VT.dtype) @ weight_VT.t()
    made_NV = made_NV if made_NV.dtype == torch.float64 else made_NV.float()
    if head.bias_V is not None:
        made_NV = made_NV + head.bias_V
    return made_NV if head.softcap is None else head.softcap * (made_NV / head.softcap).tanh()


@torch.inference_mode()
def log_likelihood(states_NT: torch.Tensor, head: Head, label_N: torch.Tensor) -> torch.Tensor:
    """Return log p of the labels `[N]`, float32, a few rows at a time: no `[N, V]` is held."""
    found = [torch.zeros(0, device=states_NT.device)]
    for states_PT, label_P in zip(states_NT.split(_ROWS), label_N.split(_ROWS), strict=True):
        logits_PV = logits(states_PT, head)
        picked_P = logits_PV.gather(1, label_P[:, None])[:, 0]
        found.append((picked_P - logits_PV.logsumexp(-1)).float())
    return torch.cat(found)
