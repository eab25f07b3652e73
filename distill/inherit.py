"""A student that begins with its teacher's weights: the exact map first, then what each cut costs.

Reads the teacher once more, in float32 on the CPU, where the algebra is done.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.loss.divergences import forward_kl
from distill.prepare import Ready
from distill.session import Session
from distill.teachers import local
from distill.text.corpus import evenly
from student.documents import Documents
from student.inherited import InheritConfig, InheritedExperts, Inheriting, InheritV4Config
from student.model import Student
from student.moe import Router
from student.v4_attention import V4Attention
from student.vocabulary import Vocabulary
from student.warm_start import calibration, convert, convert_v4, dense, experts
from student.warm_start.compensation import Ridge, compensate
from student.warm_start.dense import Dense
from student.warm_start.experts import Carving

_LOOKS = 4  # windows on which a cut is priced
_CPU = torch.device("cpu")
_Price = Callable[[str, Student], None]  # told of what was cut, and the student it made


def begin(session: Session, asked: Inheriting, ready: Ready) -> Student:
    """Return a student that does what its teacher does, as far as it is as large.

    Raises:
        WarmStartError: no student can inherit this teacher.
    """
    began = time.perf_counter()
    path = next((path for path in ready.paths if path is not None), None)
    assert path is not None  # `planning.made_of` has seen to it, before anything was asked
    model = local.load_model(path, device=_CPU)
    teacher = dense.read(model)
    token_BS, look_BS = _windows(session, asked, ready)
    session.say(f"reading {token_BS.numel():,} tokens with the teacher, to inherit its weights")
    seen = calibration.watch(model, token_BS)
    logit_NV = _teacher_logits(model, look_BS)

    def price(what: str, student: Student) -> None:
        session.say(f"inherited, {what}: KL to the teacher {_kl(student, look_BS, logit_NV):.2g}")

    given = _Given(teacher=teacher, seen=seen, vocabulary=ready.vocabulary)
    if isinstance(asked, InheritV4Config):
        student = _v4(session, asked, given, price)
    else:
        student = _mla(session, asked, given, price)
    session.say(f"inherited in {time.perf_counter() - began:.0f} s")
    return student.to(session.device).train()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Given:
    """What every student of a teacher is made of.

    Attributes:
        teacher: its weights.
        seen: what its layers read on the text to fit to.
        vocabulary: its tokens.
    """

    teacher: Dense
    seen: calibration.Seen
    vocabulary: Vocabulary

    @property
    def little(self) -> calibration.Seen:
        """Some of the text: the exact map is so on any, and needs little to be made."""
        return self.seen.first(_LOOKS)


def _mla(session: Session, asked: InheritConfig, given: _Given, price: _Price) -> Student:
    teacher, seen, vocabulary = given.teacher, given.seen, given.vocabulary
    plan = convert.plan_of(teacher.numbers, asked)
    whole = _whole(teacher, plan)
    price("nothing cut", convert.inherit(teacher, given.little, whole, vocabulary).student)
    made = convert.inherit(teacher, seen, plan, vocabulary, tell=_told(session, "inheriting"))
    if plan != whole:
        price(_in_words(asked, plan), made.student)
        compensate(made.student, made.seen, Ridge(), tell=_told(session, "fitting again"))
        price("and fitted again", made.student)
    return made.student


def _v4(session: Session, asked: InheritV4Config, given: _Given, price: _Price) -> Student:
    teacher, seen, vocabulary = given.teacher, given.seen, given.vocabulary
    plan = convert_v4.v4_plan_of(teacher.numbers, asked)
    whole = _whole_v4(teacher, plan)
    price("nothing cut", convert_v4.inherit_v4(teacher, given.little, whole, vocabulary).student)
    made = convert_v4.inherit_v4(teacher, seen, plan, vocabulary, tell=_told(session, "inheriting"))
    if plan != whole:
        price(_in_v4_words(asked, plan), made.student)
    return made.student


def _told(session: Session, stage: str) -> Callable[[int, int], None]:
    return lambda done, layers: session.progress(stage, done, layers, "layers")


def hold(student: Student) -> None:
    """Keep as it was solved for what a step of training would undo.

    The weights of routers are very small. In v4, `o_a` picks the values out of entries where keys
    stand beside them and are far larger, so that the least of a step lets them in.
    """
    for module in student.modules():
        match module:
            case Router():
                module.weight.requires_grad_(False)
            case V4Attention():
                module.o_a.weight.requires_grad_(False)


def _windows(
    session: Session, asked: Inheriting, ready: Ready
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
        carving = _all_asked(carving)
    layers = teacher.numbers.layers
    return replace(plan, rotary=keys, latent=keys + 1, layers=layers, carving=carving)


def _whole_v4(teacher: Dense, plan: convert_v4.V4Plan) -> convert_v4.V4Plan:
    """Return the same of v4: entries as wide as need be, all tokens in the window."""
    return replace(
        plan,
        carving=_all_asked(plan.carving),
        head_dim=None,
        sliding_window=None,
        entries=None,
        layers=teacher.numbers.layers,
    )


def _all_asked(carving: Carving) -> Carving:
    return replace(carving, active=carving.routed, spread=experts.EVEN)


def _in_words(asked: InheritConfig, plan: convert.Plan) -> str:
    said = [f"{plan.rotary + plan.latent} cached values a token and layer ({asked.cache:.0%})"]
    if asked.experts is not None:
        said.append(_neurons(asked.experts))
    if asked.depth != 1:
        said.append(f"{plan.layers} layers")
    return ", ".join(said)


def _in_v4_words(asked: InheritV4Config, plan: convert_v4.V4Plan) -> str:
    said = []
    if asked.head_dim is not None:
        said.append(f"{asked.head_dim} cached values a token and layer")
    if asked.sliding_window is not None:
        said.append(f"a window of {asked.sliding_window} tokens")
    if asked.entries is not None:
        said.append(f"entries of {asked.entries.tokens} tokens before it")
    if asked.experts.active < asked.experts.routed:
        said.append(_neurons(asked.experts))
    if asked.depth != 1:
        said.append(f"{plan.layers} layers")
    return ", ".join(said)


def _neurons(how: InheritedExperts) -> str:
    return f"{(how.shared + how.active) / (how.shared + how.routed):.0%} of the neurons"


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
