"""Student against teacher on text neither was trained on here: exact, over the full vocabulary.

Shapes: W windows, S tokens, N positions, D and T hidden sizes of student and teacher, V vocabulary.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from distill.corpus import Windows
from distill.divergences import cross_entropy, forward_kl, reverse_kl
from distill.signals import Hidden
from student import device as devices
from student.model import head_weight, hidden_states

_BATCH = 8
_ROWS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A student on held-out text; nats a token unless the name says otherwise.

    Attributes:
        kl: KL(teacher || student).
        reverse_kl: KL(student || teacher).
        top1_agreement: share of positions where both would write the same token.
        bits_per_byte: of the text itself.
        tokens_per_second: of the student's forward pass with its head.
    """

    kl: float
    reverse_kl: float
    top1_agreement: float
    bits_per_byte: float
    perplexity: float
    tokens_per_second: float
    tokens: int
    bytes: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures as they stand in `eval.json`."""
        return asdict(self)


@torch.inference_mode()
def measure(model: Any, windows: Windows, teacher: Hidden, head_VT: torch.Tensor) -> Measured:
    """Return the student's figures; all sums in float32, on the model's device."""
    device = head_weight(model).device
    head_VT = head_VT.float().to(device)
    sums = torch.zeros(4, dtype=torch.float32, device=device)
    seconds = 0.0
    model.eval()
    for start in range(0, len(windows.tokens), _BATCH):
        part = windows.take(torch.arange(start, min(start + _BATCH, len(windows.tokens))).numpy())
        tokens_WS = torch.from_numpy(part.tokens).long().to(device)
        weights_N = torch.from_numpy(part.weights).flatten().to(device)
        labels_N = tokens_WS[:, 1:].reshape(-1)
        first = start * part.weights.shape[1]
        states_NT = teacher.states_NT[first : first + len(labels_N)].to(device)
        devices.synchronize(device)
        began = time.perf_counter()
        hidden_ND = hidden_states(model, tokens_WS[:, :-1]).flatten(0, 1)
        seconds += time.perf_counter() - began
        for row in range(0, len(labels_N), _ROWS):
            rows = slice(row, row + _ROWS)
            began = time.perf_counter()
            logits_NV = hidden_ND[rows] @ head_weight(model).t()
            devices.synchronize(device)
            seconds += time.perf_counter() - began
            logq_NV = logits_NV.log_softmax(-1)
            logp_NV = (states_NT[rows].float() @ head_VT.t()).log_softmax(-1)
            agree_N = (logp_NV.argmax(-1) == logq_NV.argmax(-1)).float()
            figures_4N = torch.stack(
                [
                    forward_kl(logp_NV, logq_NV),
                    reverse_kl(logp_NV, logq_NV),
                    agree_N,
                    cross_entropy(labels_N[rows], logq_NV),
                ]
            )
            sums += (figures_4N * weights_N[rows]).sum(-1)
    count = float(windows.weights.sum())
    size = float((windows.sizes * windows.weights).sum())
    kl, reverse, agreement, nll = (float(value) for value in sums)
    return Measured(
        kl=kl / count,
        reverse_kl=reverse / count,
        top1_agreement=agreement / count,
        bits_per_byte=nll / math.log(2) / size,
        perplexity=math.exp(nll / count),
        tokens_per_second=windows.weights.size / seconds,
        tokens=int(count),
        bytes=round(size),
    )


@torch.inference_mode()
def measure_teacher(
    windows: Windows, teacher: Hidden, head_VT: torch.Tensor, seconds: float
) -> dict[str, float]:
    """Return the teacher's own bits per byte and perplexity, and its speed over `seconds`."""
    labels_N = torch.from_numpy(windows.tokens[:, 1:]).long().reshape(-1)
    weights_N = torch.from_numpy(windows.weights).flatten()
    head_VT = head_VT.float().cpu()
    nll = 0.0
    for row in range(0, len(labels_N), _ROWS):
        rows = slice(row, row + _ROWS)
        logp_NV = (teacher.states_NT[rows].float() @ head_VT.t()).log_softmax(-1)
        nll += float((cross_entropy(labels_N[rows], logp_NV) * weights_N[rows]).sum())
    size = float((windows.sizes * windows.weights).sum())
    return {
        "bits_per_byte": nll / math.log(2) / size,
        "perplexity": math.exp(nll / float(weights_N.sum())),
        "tokens_per_second": len(labels_N) / seconds if seconds else 0.0,
    }
