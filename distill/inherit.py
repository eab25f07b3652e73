"""A student that begins with its teacher's weights: the exact map first, then what each cut costs.

Reads the teacher once more, in float32 on the CPU, where the algebra is done.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from distill.loss.divergences import forward_kl
from distill.prepare import Ready
from distill.session import Session
from distill.teachers import local
from distill.text.corpus import evenly
from student.config import InheritConfig
from student.documents import Documents
from student.model import Student
from student.moe import Router
from student.warm_start import calibration, convert, dense
from student.warm_start.compensation import Ridge, compensate
from student.warm_start.dense import Dense

_LOOKS = 4  # windows on which a cut is priced
_EXACT_SPREAD = 1e-4
_CPU = torch.device("cpu")


def begin(session: Session, asked: InheritConfig, ready: Ready) -> Student:
    """Return a student that does what its teacher does, as far as it is as large.

    Raises:
        WarmStartError: no student can inherit this teacher.
    """
    began = time.perf_counter()
    path = next((path for path in ready.paths if path is not None), None)
    assert path is not None  # `planning.made_of` has seen to it, before anything was asked
    model = local.load_model(path, device=_CPU)
    teacher = dense.read(model)
    plan = convert.plan_of(teacher.numbers, asked)
    token_BS, look_BS = _windows(session, asked, ready)
    session.say(f"reading {token_BS.numel():,} tokens with the teacher, to inherit its weights")
    seen = calibration.watch(model, token_BS)
    logit_NV = _teacher_logits(model, look_BS)

    def tell(what: str, student: Student) -> None:
        session.say(f"inherited, {what}: KL to the teacher {_kl(student, look_BS, logit_NV):.2g}")

    # The exact map is so on any text, and needs little to be made.
    whole, little = _whole(teacher, plan), seen.first(_LOOKS)
    tell("nothing cut", convert.inherit(teacher, little, whole, ready.vocabulary).student)
    made = convert.inherit(teacher, seen, plan, ready.vocabulary, tell=_told(session, "inheriting"))
    student = made.student
    if plan != whole:
        tell(_in_words(asked, plan), student)
        compensate(student, made.seen, Ridge(), tell=_told(session, "fitting again"))
        tell("and fitted again", student)
    session.say(f"inherited in {time.perf_counter() - began:.0f} s")
    return student.to(session.device).train()


def _told(session: Session, stage: str) -> Callable[[int, int], None]:
    return lambda done, layers: session.progress(stage, done, layers, "layers")


def hold_routers(student: Student) -> None:
    """Keep routers as they were solved for: their weights are so small that a step undoes them."""
    for module in student.modules():
        if isinstance(module, Router):
            module.weight.requires_grad_(False)


def _windows(
    session: Session, asked: InheritConfig, ready: Ready
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows `[B, S]` of the training text to fit on, and of the held-out to look at."""
    length = session.config.text.sequence_length
    sides = (ready.text.train, -(-asked.calibration_tokens // length)), (ready.text.held, _LOOKS)
    fit_BS, look_BS = (
        torch.from_numpy(side.tokens[evenly(len(side.tokens), count), :-1].astype(np.int64))
        for side, count in sides
    )
    return fit_BS, look_BS


def _whole(teacher: Dense, plan: convert.Plan) -> convert.Plan:
    """Return the plan of the same student with nothing cut: all keys, values, layers, experts."""
    keys = teacher.numbers.kv_heads * teacher.numbers.head_dim
    carving = plan.carving
    if carving is not None:
        carving = replace(carving, active=carving.routed, spread=_EXACT_SPREAD)
    layers = teacher.numbers.layers
    return replace(plan, rotary=keys, latent=keys + 1, layers=layers, carving=carving)


def _in_words(asked: InheritConfig, plan: convert.Plan) -> str:
    said = f"{plan.rotary + plan.latent} cached values a token and layer ({asked.cache:.0%})"
    if (how := asked.experts) is not None:
        said += f", {(how.shared + how.active) / (how.shared + how.routed):.0%} of the neurons"
    return said if asked.depth == 1 else f"{said}, {plan.layers} layers"


@torch.no_grad()
def _teacher_logits(model: torch.nn.Module, token_BS: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(input_ids=window_S[None]).logits[0] for window_S in token_BS])


@torch.no_grad()
def _kl(student: Student, token_BS: torch.Tensor, logit_NV: torch.Tensor) -> float:
    """Return the mean of KL(teacher, student) in nats a token."""
    windows, tokens = token_BS.shape
    documents = Documents([tokens] * windows, _CPU)
    hidden_ND = student(token_BS.flatten(), documents).hidden_ND
    total = 0.0
    for hidden_SD, theirs_SV in zip(hidden_ND.split(tokens), logit_NV.split(tokens), strict=True):
        log_p = theirs_SV.double().log_softmax(-1)
        log_q = student.logits(hidden_SD).double().log_softmax(-1)
        total += float(forward_kl(log_p, log_q).sum())
    return total / len(logit_NV)
