"""The bill of a run, from what its lessons, its steps and its evaluation say of themselves.

Work that was done but not counted is a line without an amount, so that no sum seems whole.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from distill.config import RunConfig
from distill.examination import Examined
from distill.lessons.lesson import Lesson
from distill.papers import work
from distill.papers.bill import bill
from distill.papers.ledger import Line
from distill.prices import Asked
from student.config import MLAConfig, V4Config
from student.vocabulary import Vocabulary

Row = Mapping[str, Any]


class _Read(NamedTuple):
    """What the steps of a run read.

    Attributes:
        text: positions of the run's text.
        rows: of the student's own.
        own: positions of these, prompts among them.
        answers: tokens that the student wrote in them.
        unused: rows that it wrote and no step came to read.
    """

    text: int
    rows: int
    own: int
    answers: int
    unused: int

    @property
    def length(self) -> int:
        """Mean positions of an own row."""
        return max(1, round(self.own / max(1, self.rows)))


def of_run(
    config: RunConfig,
    student: MLAConfig | V4Config,
    vocabulary: Vocabulary,
    lessons: Sequence[Lesson],
    metrics: Sequence[Row],
    seconds: Mapping[str, float],
    examined: Examined,
    writer: Asked | None = None,
) -> dict[str, Any]:
    """Return the bill as it stands in `eval.json`.

    Args:
        config: the run's.
        student: what it is made of.
        vocabulary: the student's.
        lessons: who taught, what they read, what was asked of servers.
        metrics: a row a step.
        seconds: wall time of each stage.
        examined: what measuring the student took.
        writer: what was asked of a server that answered in the student's place; None without one.
    """
    read = _read(config, metrics)
    tokens = {
        "trained on": read.text + read.own,
        "captured": sum(one.tokens_read for one in lessons),
        "read as prompts": 0 if writer else read.own - read.answers + read.rows,
        "generated": read.answers,
        "evaluated": examined.looks * examined.positions,
    }
    for one in lessons:
        if one.wrote is not None:
            name = one.config.name
            tokens |= {f"read by {name}": one.wrote[0], f"written by {name}": one.wrote[1]}
    asked = [one.asked for one in lessons if one.asked is not None]
    asked += [writer] if writer else []
    passes = [*_student(config, student, vocabulary, read, examined)]
    tags = any(one.config.tags for one in lessons)
    for one in lessons:
        passes += _teacher(config, one, read, examined, tags=tags)
    passes += [work.served(one.teacher, one.read + one.written) for one in asked]
    return bill(
        tokens={name: count for name, count in tokens.items() if count},
        work=passes,
        seconds=seconds,
        prices=config.prices,
        asked=asked,
    )


def _read(config: RunConfig, metrics: Sequence[Row]) -> _Read:
    """Return what the steps read: of each step's positions those that are no window's are own."""
    windows, length = config.train.batch_size, config.text.sequence_length
    rows = [int(row.get("own_rows", 0)) for row in metrics]
    text = sum((windows - own) * length for own in rows)
    writing = [own for own in rows if own]
    spare = -len(writing) % config.rollout.refresh_steps
    return _Read(
        text=text,
        rows=sum(rows),
        own=int(metrics[-1]["tokens"]) - text,
        answers=int(sum(row.get("own_tokens", 0) for row in metrics)),
        unused=spare * max(writing, default=0),
    )


def _student(
    config: RunConfig,
    student: MLAConfig | V4Config,
    vocabulary: Vocabulary,
    read: _Read,
    examined: Examined,
) -> list[Line]:
    size, length = vocabulary.size, config.text.sequence_length
    lines = []
    sides = ("", read.text, length), (_whose(config), read.own, read.length)
    for text, tokens, row in sides:
        if tokens:
            line = work.student_training(
                student,
                size,
                sequence_tokens=row,
                tokens=tokens,
                recompute=config.train.recompute,
                text=text,
            )
            lines.append(line)

    def forward(doing: str, row: int, positions: int, applied: int) -> Line:
        return work.student_forward(
            student, size, sequence_tokens=row, positions=positions, applied=applied, doing=doing
        )

    if config.train.routing_delay:
        ahead = max(0, config.train.steps - config.train.routing_delay)
        positions = read.text * ahead // config.train.steps
        lines.append(forward("routing ahead", length, positions, 0))
    if read.own and config.rollout.endpoint is None:
        lines.append(forward("writing", read.length, read.own, read.answers))
        lines += [_unused(read)] if read.unused else []
    return lines + _examining(forward, length, examined)


def _whose(config: RunConfig) -> str:
    return " on its own answers" if config.rollout.endpoint is None else " on a server's answers"


def _unused(read: _Read) -> Line:
    return work.unrecorded(
        "Student, writing what no step read",
        f"{read.unused} rows were written for steps that the run does not have, so make "
        "train.steps fit rollout.refresh_steps",
    )


class _Forward(Protocol):
    """A line of forward passes alone, in rows of so many tokens."""

    def __call__(self, doing: str, row: int, positions: int, applied: int) -> Line: ...


def _examining(forward: _Forward, length: int, examined: Examined) -> list[Line]:
    looks, asked = examined.looks, examined.tasks
    line = forward("evaluating", length, looks * examined.positions, looks * examined.counted)
    if not asked.sequences:
        return [line]
    row = max(1, round(asked.positions / asked.sequences))
    return [line, forward("answering tasks", row, asked.positions, asked.applied)]


def _teacher(
    config: RunConfig, one: Lesson, read: _Read, examined: Examined, *, tags: bool
) -> list[Line]:
    """Return the lines of one teacher's passes.

    Args:
        config: the run's.
        one: the teacher's lesson.
        read: what the steps read.
        examined: what measuring the student took.
        tags: whether some answers of the student's are one teacher's and others another's.
    """
    name = one.config.name
    if one.path is None:
        return []
    sizes = json.loads((one.path / "config.json").read_text(encoding="utf-8"))
    length = config.text.sequence_length

    def passes(doing: str, row: int, positions: int, applied: int) -> Line:
        return work.teacher_forward(
            name,
            one.shapes,
            sizes,
            sequence_tokens=row,
            tokens=positions,
            applied=applied,
            doing=doing,
        )

    stores = one.train.stores if one.train else ()
    heard = examined.looks * examined.heard.get(name, 0)
    captured = sum(store.tokens for store in stores if store.key.mode != "hidden")
    lines = [passes("forward", length, one.tokens_read, captured + heard)]
    if any(store.key.mode == "hidden" for store in stores):
        doing = "its head over kept states"
        whole = len(stores) == 1 and not tags
        lines.append(passes(doing, length, 0, read.text) if whole else _untold(name, doing))
    if one.live is not None and read.own:
        doing = "on the student's answers"
        told = passes(doing, read.length, read.own, read.answers)
        lines.append(_untold(name, doing) if tags else told)
    return lines + _answering(config, one, passes)


def _untold(name: str, doing: str) -> Line:
    reason = "the run does not record which rows of a step are its"
    return work.unrecorded(f"{name}, {doing}", reason)


def _answering(config: RunConfig, one: Lesson, passes: _Forward) -> list[Line]:
    """Return the lines of what a teacher on disk wrote: to prompts, and to tasks."""
    lines = []
    if one.wrote is not None and one.config.answers is not None:
        read, written = one.wrote
        # How many answers there were is not told; as if each had all the tokens it may have.
        rows = max(1, written // one.config.answers.max_new_tokens)
        lines.append(passes("writing answers", (read + written) // rows, read + written, written))
    if one.tasks and config.is_taught:  # a control finds its student's teachers' answers
        took = one.task_effort
        row = max(1, round(took.positions / max(1, took.sequences)))
        lines.append(passes("answering tasks", row, took.positions, took.applied))
    return lines
