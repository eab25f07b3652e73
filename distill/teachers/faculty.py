"""The teachers of a run before they are asked: whether they may teach, and where they are."""

from collections.abc import Callable, Sequence
from pathlib import Path

from distill import terms
from distill.config import EMBEDDED, RunConfig, TeacherConfig
from distill.errors import InputError
from distill.loss.compatibility import require_served
from distill.loss.objective import ChunkLikelihood, SortedL1
from distill.rollout.config import WRITER
from distill.session import Say
from distill.signals import Chunks, Hidden, Signal, Sparse, Text
from distill.teachers import embedded


def admit(config: RunConfig, say: Say) -> None:
    """Refuse teachers whose terms, as stated, do not permit this; say what the others oblige to.

    A control learns from no teacher, so it is asked for none.

    Raises:
        TermsError: a teacher's terms say no, or are missing.
    """
    if not config.is_taught:
        return
    parties = [(teacher.name, teacher.owned, teacher.terms) for teacher in config.teachers]
    if config.rollout.fraction and config.rollout.endpoint is not None:
        parties.append((WRITER, config.rollout.owned, config.rollout.terms))
    for name, owned, stated in parties:
        for obligation in terms.check(name, owned, stated):
            say(f"{name} obliges to: {obligation}")


def require_heard(config: RunConfig) -> None:
    """See that the teachers give what the terms of the loss need.

    Raises:
        MismatchError: names the term that no teacher serves.
    """
    reading = [teacher for teacher in config.teachers if teacher.path is not None]
    kind = Hidden if config.signal.mode == "hidden" else Sparse
    given: list[type[Signal]] = [kind] * bool(reading)
    served = [teacher for teacher in config.teachers if teacher.endpoint is not None]
    if any(teacher.says != "text" for teacher in served):
        given.append(Sparse)
    if reading and any(isinstance(t, ChunkLikelihood | SortedL1) for t in config.loss):
        # Which of these a teacher gives, its tokenizer will tell.
        given += [Chunks, Hidden]
    own: list[type[Signal]] = []
    if config.rollout.fraction:
        own = [Hidden if config.rollout.estimator == "full" else Text]
    require_served(config.loss, given, own)


def locate(teachers: Sequence[TeacherConfig], say: Say) -> list[Path | None]:
    """Return the directory of each teacher on disk, None for the served.

    Raises:
        InputError: there is no model there.
        TeacherError: the embedded teacher is not installed.
    """
    return [_place(teacher, lambda: embedded.ensure(say)) for teacher in teachers]


def at_hand(teachers: Sequence[TeacherConfig]) -> list[Path | None]:
    """Return the same of teachers that need not be made first.

    Raises:
        InputError: there is no model there.
        TeacherError: the embedded teacher is not converted yet.
    """
    return [_place(teacher, embedded.converted) for teacher in teachers]


def _place(teacher: TeacherConfig, embed: Callable[[], Path]) -> Path | None:
    if teacher.path is None:
        return None
    if teacher.path == EMBEDDED:
        return embed()
    path = Path(teacher.path)
    if not (path / "config.json").is_file():
        raise InputError(
            f"teacher {teacher.name!r}: {path} holds no model (no config.json); name the directory "
            "of a transformers causal language model, or embedded."
        )
    return path
