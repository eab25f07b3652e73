"""What a run will take, before it begins: how large the student is, what it caches, what it reads.

Arithmetic alone; of a teacher only its config and tokenizer are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from distill.config import RunConfig
from distill.errors import InputError, MismatchError, TeacherError
from distill.session import Say
from distill.starter import TRAINING_BYTES, memory, spoken
from distill.teachers import faculty
from distill.text import student_tokenizer
from student.config import MLAConfig, V4Config
from student.inherited import Inheriting, InheritV4Config
from student.sizes import count_parameters, kv_cache_bytes_per_token, training_flops_per_token
from student.warm_start import convert, convert_v4, dense


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What a run will take.

    Attributes:
        parameters: of the trunk, and `active_parameters` at work on a token.
        prediction_parameters: of layers that predict further ahead.
        cache_bytes_per_token: by which bfloat16 decoding grows with each token, on average.
        teacher_cache_bytes_per_token: the same of the teacher whose weights are inherited; None
            where none are.
        tokens: that are trained on.
        training_flop: of the student, forward and backward.
        training_bytes: weights, gradients and two moments in float32; activations come on top.
    """

    parameters: int
    active_parameters: int
    prediction_parameters: int
    cache_bytes_per_token: int | float
    teacher_cache_bytes_per_token: int | None
    tokens: int
    training_flop: float
    training_bytes: int

    @property
    def lines(self) -> list[str]:
        """All of it as text."""
        cache = f"cache: {self.cache_bytes_per_token:,.0f} B a token in bfloat16"
        if (theirs := self.teacher_cache_bytes_per_token) is not None:
            share = self.cache_bytes_per_token / theirs
            cache += f", {share:.0%} of the teacher's {theirs:,} B"
        student = (
            f"student: {spoken(self.parameters)} parameters, {spoken(self.active_parameters)} at "
            "work on a token"
        )
        if self.prediction_parameters:
            student += f", {spoken(self.prediction_parameters)} more in prediction layers"
        return [
            student,
            cache,
            f"training: {self.tokens:,} tokens, {self.training_flop:.1e} FLOP of the student; "
            f"{memory(self.training_bytes)} for weights, gradients and moments, activations on top",
        ]


def outlook(config: RunConfig, say: Say) -> Outlook:
    """Return what the run of `config` will take.

    Raises:
        InputError: a teacher is not there.
        MismatchError, WarmStartError: as `made_of`.
    """
    return _outlook(config, faculty.locate(config.teachers, say))


def at_hand(config: RunConfig) -> Outlook | None:
    """Return the same where teachers and tokenizer are on disk, and None where they are not.

    Nothing is converted for it, and no weight is read.

    Raises:
        MismatchError, WarmStartError: as `made_of`.
    """
    try:
        return _outlook(config, faculty.at_hand(config.teachers))
    except (InputError, TeacherError):
        return None


def _outlook(config: RunConfig, paths: list[Path | None]) -> Outlook:
    _, vocabulary = student_tokenizer.load(config.text.tokenizer, paths)
    student, theirs = made_of(config, paths)
    counted = count_parameters(student, vocabulary.size)
    tokens = config.train.steps * config.train.batch_size * config.text.sequence_length
    length = config.text.sequence_length
    return Outlook(
        parameters=counted.total,
        active_parameters=counted.active,
        prediction_parameters=counted.mtp,
        cache_bytes_per_token=kv_cache_bytes_per_token(student),
        teacher_cache_bytes_per_token=theirs,
        tokens=tokens,
        training_flop=tokens * training_flops_per_token(student, vocabulary.size, length),
        training_bytes=TRAINING_BYTES * (counted.total + counted.mtp),
    )


def made_of(config: RunConfig, paths: list[Path | None]) -> tuple[MLAConfig | V4Config, int | None]:
    """Return what the student will be made of, and its teacher's cache if it inherits from one.

    Raises:
        MismatchError: the student's tokens are not those of a teacher on disk.
        WarmStartError: no student can inherit that teacher's weights as asked.
    """
    asked = config.student
    if isinstance(asked, MLAConfig | V4Config):
        return asked, None
    path = next((path for path in paths if path is not None), None)
    if path is None or config.text.tokenizer != "teacher":
        raise MismatchError(
            "student.init is teacher: its weights go with its own tokens, so the first teacher "
            "must be on disk and text.tokenizer must be teacher."
        )
    teacher: Any = AutoConfig.from_pretrained(path, local_files_only=True)
    size = dense.numbers(teacher)
    return _inheriting(size, asked), 2 * size.layers * size.cache_values


def _inheriting(size: dense.Numbers, asked: Inheriting) -> MLAConfig | V4Config:
    if isinstance(asked, InheritV4Config):
        return convert_v4.v4_config_of(size, convert_v4.v4_plan_of(size, asked), None)
    return convert.config_of(size, convert.plan_of(size, asked), None)
