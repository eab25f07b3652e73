"""Student against teacher on text neither was trained on here: exact, over the full vocabulary.

Shapes: W windows, S tokens, N positions, D and T hidden sizes of student and teacher, V vocabulary.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill.corpus import Windows
from distill.divergences import cross_entropy, forward_kl, reverse_kl
from distill.signals import Hidden
from student import device as devices
from student.documents import Documents
from student.generate import Sampling, generate
from student.model import Student

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
        perplexity: of the text itself, a token.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherMeasured:
    """The teacher on the same text."""

    bits_per_byte: float
    perplexity: float


@torch.inference_mode()
def measure(
    student: Student, windows: Windows, teacher: Hidden, head_VT: torch.Tensor
) -> tuple[Measured, TeacherMeasured]:
    """Return the student's figures and the teacher's, in float32 on the model's device."""
    device = student.device
    head_VT = head_VT.float().to(device)
    sums = torch.zeros(5, dtype=torch.float32, device=device)
    seconds = 0.0
    student.eval()
    for start in range(0, len(windows.tokens), _BATCH):
        part = windows.take(np.arange(start, min(start + _BATCH, len(windows.tokens))))
        tokens_WS = torch.from_numpy(part.tokens).long().to(device)
        weights_N = torch.from_numpy(part.weights).flatten().to(device)
        first = start * part.weights.shape[1]
        states_NT = teacher.states_NT[first : first + weights_N.numel()].to(device)
        count, length = part.weights.shape
        documents = Documents.rows(count, length, device)
        devices.synchronize(device)
        began = time.perf_counter()
        hidden_ND = student(tokens_WS[:, :-1].flatten(), documents).hidden_ND
        devices.synchronize(device)
        seconds += time.perf_counter() - began
        labels_N = tokens_WS[:, 1:].reshape(-1)
        for row in range(0, len(labels_N), _ROWS):
            rows = slice(row, row + _ROWS)
            began = time.perf_counter()
            logits_NV = student.logits(hidden_ND[rows])
            devices.synchronize(device)
            seconds += time.perf_counter() - began
            teacher_NV = states_NT[rows].float() @ head_VT.t()
            figures_5N = _figures(logits_NV, teacher_NV, labels_N[rows])
            sums += (figures_5N * weights_N[rows]).sum(-1)
    counted = float(windows.weights.sum())
    size = float((windows.sizes * windows.weights).sum())
    kl, reverse, agreement, nll, teacher_nll = (float(value) for value in sums)
    measured = Measured(
        kl=kl / counted,
        reverse_kl=reverse / counted,
        top1_agreement=agreement / counted,
        bits_per_byte=nll / math.log(2) / size,
        perplexity=math.exp(nll / counted),
        tokens_per_second=windows.weights.size / seconds,
        tokens=int(counted),
        bytes=round(size),
    )
    return measured, TeacherMeasured(
        bits_per_byte=teacher_nll / math.log(2) / size, perplexity=math.exp(teacher_nll / counted)
    )


def write_on(student: Student, tokenizer: Any, prompt: str, max_tokens: int, *, seed: int) -> str:
    """Return how a student goes on from the plain text `prompt`: sampled as its teacher's is.

    Of a prompt that would leave no half of the student's positions to write in, the end is read.
    """
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = ids or [student.vocabulary.bos]
    limit = student.config.max_position_embeddings
    new = min(max_tokens, max(limit - len(ids), limit // 2))
    sampling = Sampling(temperature=0.7, top_p=0.95, seed=seed)
    (written,) = generate(student, [ids[new - limit :]], max_new_tokens=new, sampling=sampling)
    return str(tokenizer.decode(written, skip_special_tokens=True))


def _figures(
    student_NV: torch.Tensor, teacher_NV: torch.Tensor, labels_N: torch.Tensor
) -> torch.Tensor:
    """Return both KLs, agreement, and both cross-entropies at each position, `[5, N]`."""
    logq_NV, logp_NV = student_NV.log_softmax(-1), teacher_NV.log_softmax(-1)
    return torch.stack(
        [
            forward_kl(logp_NV, logq_NV),
            reverse_kl(logp_NV, logq_NV),
            (logp_NV.argmax(-1) == logq_NV.argmax(-1)).float(),
            cross_entropy(labels_N, logq_NV),
            cross_entropy(labels_N, logp_NV),
        ]
    )
