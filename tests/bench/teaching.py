"""Steps that teach a student of a warm start: forward KL to its teacher, and some cross-entropy.

Shapes: B windows, S tokens of each, N = B S tokens, D hidden size, V vocabulary.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from distill import inherit
from distill.loss.divergences import forward_kl
from student.documents import Documents
from student.model import Student

ROWS = 2  # windows a step
_RATE, _LEAST, _WARMUP, _OF_TEXT = 1e-4, 0.1, 5, 0.15
_CPU = torch.device("cpu")


def falling(steps: int, rate: float = _RATE) -> list[float]:
    """Return the rates of a run: a short rise, and a cosine."""
    cosines = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    return [
        rate * min(1.0, (step + 1) / _WARMUP) * (_LEAST + (1 - _LEAST) * cosine)
        for step, cosine in enumerate(cosines)
    ]


def level(steps: int) -> list[float]:
    """Return the rates of one part of a longer run: a short rise, even, a fall over the last third.

    A student that is measured after each part is as finished there as one that was taught no more.
    """
    return [
        _RATE * min(1.0, (step + 1) / _WARMUP, max(_LEAST, 3 * (steps - step) / steps))
        for step in range(steps)
    ]


def shuffled(text_BS: torch.Tensor, seed: int) -> torch.Tensor:
    """Return windows in another order."""
    return text_BS[torch.randperm(len(text_BS), generator=torch.Generator().manual_seed(seed))]


@torch.no_grad()
def last_hidden(model: Any, token_BS: torch.Tensor) -> list[torch.Tensor]:
    """Return a transformers model's last hidden states, `[S, D]` a window."""
    body = model.model
    return [body(input_ids=row_S[None]).last_hidden_state[0] for row_S in token_BS]


def signal(model: Any, token_BS: torch.Tensor) -> torch.Tensor:
    """Return a teacher's last hidden states `[B, S, D]` to learn from, made in bfloat16."""
    return torch.stack(last_hidden(copy.deepcopy(model).bfloat16(), token_BS)).float()


class Taught:
    """A student and its optimizer.

    Of one that inherits its weights are held as they are: the embedding, which is the teacher's
    head too, and what `distill.inherit` holds.
    """

    def __init__(self, student: Student, embed_VD: torch.Tensor, *, drawn: bool = False) -> None:
        """Take a student, and the teacher's head."""
        self.student, self.embed_VD = student, embed_VD
        if not drawn:
            student.embed.weight.requires_grad_(False)
            inherit.hold(student)
        self.learns = [p for p in student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learns, betas=(0.9, 0.95), weight_decay=0.0)

    def learn(self, text_BS: torch.Tensor, said_BSD: torch.Tensor, rates: Sequence[float]) -> None:
        """Take one pass over text, of which `said_BSD` are the teacher's last hidden states."""
        self.student.train()
        rows = zip(text_BS.split(ROWS), said_BSD.split(ROWS), rates, strict=True)
        for row_BS, hidden_BSD, rate in rows:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            self.loss(row_BS, hidden_BSD).backward()
            torch.nn.utils.clip_grad_norm_(self.learns, 1.0)
            self.optimizer.step()
        self.student.eval()

    def loss(self, row_BS: torch.Tensor, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return the loss on a few windows, in bfloat16."""
        documents = Documents([row_BS.shape[1]] * len(row_BS), _CPU)
        with torch.autocast("cpu", torch.bfloat16):
            own_ND = self.student(row_BS.flatten(), documents).hidden_ND
            own_NV = F.linear(own_ND, self.student.head_weight())
            with torch.no_grad():
                their_NV = F.linear(hidden_BSD.flatten(0, 1), self.embed_VD)
        log_p, log_q = their_NV.float().log_softmax(-1), own_NV.float().log_softmax(-1)
        of_text = F.nll_loss(
            log_q.unflatten(0, row_BS.shape)[:, :-1].flatten(0, 1), row_BS[:, 1:].flatten()
        )
        return (1 - _OF_TEXT) * forward_kl(log_p, log_q).mean() + _OF_TEXT * of_text
