"""The same distillation loss as others compute it: TRL 1.16, Liger 0.8.5, and all logits at once.

`trl` is what TRL's DistillationTrainer runs (a private function, so the version is pinned), `gkd`
its GKDTrainer's loss on full logits, `liger` Liger's fused loss as it runs on a CPU, `naive` what
one writes down first. All take `beta` as Agarwal et al. do (arXiv 2306.13649): 0 is the forward
KL, 1 the reverse, between them the generalised JSD.

Shapes: N positions, D and T hidden sizes of student and teacher, V vocabulary.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import torch
import torch.nn.functional as F

from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import Divergence
from distill.signals import Head, Hidden

IGNORED = -100
STUDENT, TEACHER = (256, 4), (512, 8)  # hidden size and layers
BATCH = 2


@dataclass(frozen=True)
class Given:
    """What a loss is given: states and heads of both, and which positions count.

    Attributes:
        student_ND: takes a gradient, as `student_VD` does.
        counted_N: bool.
        beta: as above.
    """

    student_ND: torch.Tensor
    student_VD: torch.Tensor
    teacher_NT: torch.Tensor
    teacher_VT: torch.Tensor
    counted_N: torch.Tensor
    beta: float

    def labels(self) -> torch.Tensor:
        """Return labels that mark what does not count; which token it is plays no part."""
        return torch.where(self.counted_N, 0, IGNORED)


Loss = Callable[[Given], torch.Tensor]


def ours(given: Given) -> torch.Tensor:
    """Return our loss."""
    kinds = {0.0: "forward_kl", 1.0: "reverse_kl"}
    kind, mix = kinds.get(given.beta, "jsd"), None if given.beta in kinds else given.beta
    signal = Hidden(given.teacher_NT, Head(given.teacher_VT))
    (kept_M,) = torch.nonzero(given.counted_N, as_tuple=True)
    found = distillation_loss(
        given.student_ND,
        Head(given.student_VD),
        given.labels(),
        kept_M,
        signal,
        [Divergence(kind=kind, mix=mix)],
        dtype=given.student_ND.dtype,
    )
    return found.total


def trl(given: Given) -> torch.Tensor:
    """Return the loss of TRL's DistillationTrainer."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    loss, _entropy, _count = _chunked_divergence_loss(
        given.student_ND[None],
        given.teacher_NT[None],
        given.student_VD,
        given.teacher_VT,
        given.counted_N[None],
        given.beta,
    )
    return loss


def gkd(given: Given) -> torch.Tensor:
    """Return the loss of TRL's GKDTrainer, on full logits."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = _logits(given)
    labels = given.labels()[None]
    return GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels, beta=given.beta)


def liger(given: Given) -> torch.Tensor:
    """Return Liger's fused loss; uncompiled, as a compiler gains nothing on a CPU."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=given.beta, compiled=False, chunk_size=256
    )
    return loss(
        given.student_ND, given.student_VD, given.teacher_NT, given.teacher_VT, given.labels()
    )


def naive(given: Given) -> torch.Tensor:
    """Return the loss from all logits, by torch's own functions."""
    logq, logp = (logits.log_softmax(-1) for logits in _logits(given))
    beta, counted = given.beta, given.counted_N
    if beta == 0:
        return F.kl_div(logq, logp, reduction="none", log_target=True)[counted].sum(-1).mean()
    if beta == 1:
        return F.kl_div(logp, logq, reduction="none", log_target=True)[counted].sum(-1).mean()
    logm = (beta * logp.exp() + (1 - beta) * logq.exp()).log()
    of_p = F.kl_div(logm, logp, reduction="none", log_target=True)
    of_q = F.kl_div(logm, logq, reduction="none", log_target=True)
    return (beta * of_p + (1 - beta) * of_q)[counted].sum(-1).mean()


def _logits(given: Given) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        teacher = given.teacher_NT @ given.teacher_VT.t()
    return given.student_ND @ given.student_VD.t(), teacher


SIDES: dict[str, Loss] = {"ours": ours, "trl": trl, "liger": liger, "gkd": gkd, "naive": naive}
NEEDS = {"trl": "trl", "gkd": "trl", "liger": "liger_kernel"}


def installed() -> list[str]:
    """Return the rivals that can run here; those of the `bench` extra may be missing."""
    rivals = [name for name in SIDES if name != "ours"]
    return [name for name in rivals if name not in NEEDS or find_spec(NEEDS[name])]


def drawn(
    vocab: int, positions: int, student: int, teacher: int, beta: float, *, counted: float = 1.0
) -> Given:
    """Return random states and heads, in float32; a share of the positions counts."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int, size: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(size)

    place_N = torch.randperm(positions, generator=generator)
    return Given(
        normal(positions, student, 1.0).requires_grad_(),
        normal(vocab, student, student**-0.5).requires_grad_(),
        normal(positions, teacher, 1.0),
        normal(vocab, teacher, 2 * teacher**-0.5),
        place_N < round(counted * positions),
        beta,
    )


class Step:
    """A whole training step of two Llamas: both forward, the loss, the student backward."""

    def __init__(self, vocab: int, positions: int, loss: Loss) -> None:
        """Build the models, random and the same for every loss."""
        self.loss = loss
        self.student, self.teacher = (_llama(vocab, *size) for size in (STUDENT, TEACHER))
        self.teacher.requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        shape = BATCH, positions // BATCH
        self.ids = torch.randint(0, vocab, shape, generator=generator)

    def __call__(self) -> float:
        """Take the step; return its loss."""
        self.student.zero_grad(set_to_none=True)
        with torch.no_grad():
            teacher_NT = self.teacher.model(self.ids).last_hidden_state.flatten(0, 1)
        student_ND = self.student.model(self.ids).last_hidden_state.flatten(0, 1)
        given = Given(
            student_ND,
            self.student.lm_head.weight,
            teacher_NT,
            self.teacher.lm_head.weight,
            torch.ones(len(student_ND), dtype=torch.bool),
            0.0,
        )
        loss = self.loss(given)
        loss.backward()
        return float(loss.detach())


def _llama(vocab: int, width: int, layers: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        intermediate_size=width * 11 // 4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        use_cache=False,
    )
    torch.manual_seed(width)
    return LlamaForCausalLM(config)


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Return the CPU-seconds of a call, the median of so many."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return median(spent)
