"""Student against teachers on text neither was trained on here: exact, over the full vocabulary.

Every counted position of the held-out text is compared with what its teachers say there; where
they say nothing (a served teacher, another tokenizer) the text alone measures the student.

Shapes: W windows, N positions of a batch, M of them that count, R rows of logits at once, V
vocabulary.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distill.batches import Batch, Part, Reading
from distill.evaluation.intervals import Difference, compare
from distill.heads import logits
from distill.loss.divergences import cross_entropy, forward_kl, reverse_kl
from distill.signals import Dense, Hidden, Mixture, Signal
from student import device as devices
from student.documents import Documents
from student.generate import Sampling, generate
from student.model import Student

_BATCH = 8
_ROWS = 128

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A model on held-out text; nats a token unless the name says otherwise.

    Attributes:
        kl: KL(teacher || student); this and the next two None where no teacher was compared with.
        reverse_kl: KL(student || teacher).
        top1_agreement: share of positions where both would write the same token.
        bits_per_byte: of the text itself.
        perplexity: of the text itself, a token.
        tokens_per_second: of the student's forward pass with its head.
    """

    kl: float | None
    reverse_kl: float | None
    top1_agreement: float | None
    bits_per_byte: float
    perplexity: float
    tokens_per_second: float
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherMeasured:
    """The teachers on the same text, each where it teaches."""

    bits_per_byte: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured at each counted position, in the order of the text.

    Attributes:
        document_M: int64, which document a target belongs to.
        bytes_M: UTF-8 bytes of each target.
        nll_M: -log of the student's probability of it, nats.
        taught_M: float64 `[4, M]`: KL, reverse KL, agreement, and the teacher's own nll; NaN where
            no teacher speaks.
    """

    document_M: npt.NDArray[np.int64]
    bytes_M: Floats
    nll_M: Floats
    taught_M: Floats

    def measured(self, tokens_per_second: float) -> Measured:
        """Return the means."""
        kl, reverse, agreement, _ = (_mean(row) for row in self.taught_M)
        nll = float(self.nll_M.sum())
        return Measured(
            kl=kl,
            reverse_kl=reverse,
            top1_agreement=agreement,
            bits_per_byte=nll / math.log(2) / float(self.bytes_M.sum()),
            perplexity=math.exp(nll / len(self.nll_M)),
            tokens_per_second=tokens_per_second,
            tokens=len(self.nll_M),
            bytes=round(float(self.bytes_M.sum())),
        )

    def teacher(self) -> TeacherMeasured | None:
        """Return the teachers' own figures on what they speak of, or None."""
        there_M = ~np.isnan(self.taught_M[3])
        if not there_M.any():
            return None
        nll, size = float(self.taught_M[3][there_M].sum()), float(self.bytes_M[there_M].sum())
        return TeacherMeasured(
            bits_per_byte=nll / math.log(2) / size,
            perplexity=math.exp(nll / int(there_M.sum())),
        )

    def behind(self) -> Difference | None:
        """Return the student's bits per byte less its teacher's, resampled by document."""
        there_M = ~np.isnan(self.taught_M[3])
        if not there_M.any():
            return None
        weight = 1 / math.log(2)
        return compare(
            self.nll_M[there_M] * weight,
            self.taught_M[3][there_M] * weight,
            self.document_M[there_M],
            sizes=self.bytes_M[there_M],
        )


def _mean(row_M: Floats) -> float | None:
    there_M = row_M[~np.isnan(row_M)]
    return float(there_M.mean()) if len(there_M) else None


@torch.inference_mode()
def measure(student: Student, text: Reading) -> tuple[Scores, float]:
    """Return the scores of all of `text`, in float32 on the model's device, and tokens a second."""
    student.eval()
    found: list[Scores] = []
    seconds = 0.0
    count = len(text.windows.tokens)
    for start in range(0, count, _BATCH):
        chosen_B = np.arange(start, min(start + _BATCH, count))
        scores, spent = _batch(student, text.of(chosen_B), text, chosen_B)
        found.append(scores)
        seconds += spent
    joined = Scores(
        np.concatenate([scores.document_M for scores in found]),
        np.concatenate([scores.bytes_M for scores in found]),
        np.concatenate([scores.nll_M for scores in found]),
        np.concatenate([scores.taught_M for scores in found], axis=1),
    )
    return joined, text.windows.weights.size / seconds


def _batch(
    student: Student, batch: Batch, text: Reading, chosen_B: npt.NDArray[np.int64]
) -> tuple[Scores, float]:
    device = student.device
    windows = text.windows.take(chosen_B)
    devices.synchronize(device)
    began = time.perf_counter()
    documents = Documents(batch.lengths, device)
    hidden_ND = student(batch.token_N.to(device), documents).hidden_ND
    devices.synchronize(device)
    seconds = time.perf_counter() - began
    nll_N = np.full(len(batch.token_N), np.nan)
    taught_N = np.full((4, len(batch.token_N)), np.nan)
    for part in batch.parts:
        nll_M, taught_M, spent = _part(student, part, hidden_ND, batch.label_N)
        nll_N[part.at_M], taught_N[:, part.at_M] = nll_M, taught_M
        seconds += spent
    (at_M,) = np.nonzero(~np.isnan(nll_N))
    scores = Scores(
        windows.document.reshape(-1)[at_M].astype(np.int64),
        windows.sizes.reshape(-1)[at_M],
        nll_N[at_M],
        taught_N[:, at_M],
    )
    return scores, seconds


def _part(
    student: Student, part: Part, hidden_ND: torch.Tensor, label_N: torch.Tensor
) -> tuple[Floats, Floats, float]:
    """Return nll `[M]` and the comparison `[4, M]` of one part, and the student's seconds."""
    device = student.device
    signal = part.signal(device)
    rows, seconds = [], 0.0
    for place_R in torch.arange(len(part.at_M)).split(_ROWS):
        at_R = part.at_M[place_R].to(device)
        devices.synchronize(device)
        began = time.perf_counter()
        logq_RV = student.logits(hidden_ND[at_R]).log_softmax(-1)
        devices.synchronize(device)
        seconds += time.perf_counter() - began
        label_R = label_N.to(device)[at_R]
        nll_R = cross_entropy(label_R, logq_RV)
        logp_RV = None if signal is None else _log_probabilities(signal.take(place_R.to(device)))
        rows.append(torch.stack([nll_R, *_compared(logp_RV, logq_RV, label_R)]))
    found = torch.cat(rows, dim=1).double().cpu().numpy()
    return found[0], found[1:], seconds


def _compared(
    logp_RV: torch.Tensor | None, logq_RV: torch.Tensor, label_R: torch.Tensor
) -> list[torch.Tensor]:
    if logp_RV is None:
        return [torch.full_like(logq_RV[:, 0], math.nan)] * 4
    return [
        forward_kl(logp_RV, logq_RV),
        reverse_kl(logp_RV, logq_RV),
        (logp_RV.argmax(-1) == logq_RV.argmax(-1)).float(),
        cross_entropy(label_R, logp_RV),
    ]


def _log_probabilities(signal: Signal) -> torch.Tensor | None:
    """Return what an exact signal says, `[R, V]` in float32; None for any other."""
    match signal:
        case Hidden(states_NT, head):
            return logits(states_NT.float(), head).log_softmax(-1)
        case Dense(logits_NV):
            return logits_NV.float().log_softmax(-1)
        case Mixture(parts):
            said = [(math.log(weight), _log_probabilities(one)) for weight, one in parts]
            return torch.stack([w + p for w, p in said if p is not None]).logsumexp(0)
    return None


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
