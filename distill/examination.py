"""What a student is examined in: held-out text, and the task files that the user gives.

Both sides answer the same questions, so every difference is paired and has its interval. During
training the student is glanced at: all held-out text, and a few items of each task.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill import files
from distill.batches import Reading
from distill.config import RunConfig
from distill.errors import InputError
from distill.evaluation import tasks
from distill.evaluation.answering import Effort, StudentAnswers, require_room
from distill.evaluation.evaluate import Measured, Scores, measure, write_on
from distill.evaluation.intervals import LEVEL, Difference, accuracy, compare_accuracy
from distill.evaluation.tasks import Answer, Task
from distill.lessons.curriculum import Text, shares
from distill.lessons.lesson import Lesson, Said, routes
from distill.session import Session
from student.model import Student

# What a glance during training keeps of the held-out figures.
_GLANCED = ("kl", "reverse_kl", "top1_agreement", "bits_per_byte")
# Items of a task that are asked at a glance, evenly taken.
GLANCED_ITEMS = 64

Row = Mapping[str, Any]


def load(config: RunConfig, tokenizer: Any) -> list[Task]:
    """Return the run's tasks, which all fit into the student's positions.

    Raises:
        InputError: a file cannot be read, an item does not fit, two files have one name, or this
            run, or one that it is to be seen beside, has no curve.
    """
    _require_curve(config)
    _beside(config)  # needed at the end, but now is the time to say that it is missing
    found = [tasks.load(Path(path)) for path in config.evaluate.tasks]
    names = [task.name for task in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two task files are called {name!r}; rename one of them.")
    limit = config.student.max_position_embeddings
    for task in found:
        require_room(task, tokenizer, limit, max_new_tokens=config.evaluate.task_tokens)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The student on held-out text: the means, and the scores they are of."""

    measured: Measured
    scores: Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What measuring a student took, for the bill.

    Attributes:
        looks: how often it read the held-out text: before, after, and at each glance.
        positions: of the held-out text.
        counted: those of them that count, to which the head is applied.
        heard: the same where a teacher speaks, by its name: its own head is applied there.
        tasks: what answering tasks took, glances included.
    """

    looks: int
    positions: int
    counted: int
    heard: Mapping[str, int] = field(default_factory=dict)
    tasks: Effort = field(default_factory=Effort)


class Examination:
    """What one run's student is asked, before, during and after training."""

    def __init__(
        self,
        session: Session,
        text: Text,
        lessons: Sequence[Lesson],
        tokenizer: Any,
        asked: Sequence[Task],
    ) -> None:
        config = session.config
        said = [one.held for one in lessons]
        self.text = Reading(text.held, routes(said, shares(config, text, text.held)))
        self.lessons = tuple(lessons)
        self.tokenizer = tokenizer
        self.asked = tuple(asked)
        self.limits = config.evaluate
        self._effort = Effort()

    def measure(self, student: Student) -> Result:
        """Return the student's figures on all held-out windows."""
        scores, speed = measure(student, self.text)
        return Result(measured=scores.measured(speed), scores=scores)

    def glance(self, student: Student) -> dict[str, Any]:
        """Return a few figures; the student trains on after that.

        Of each task at most `GLANCED_ITEMS` items are asked, evenly taken. With the figures are
        the seconds they took and, where tasks were asked, what answering took.
        """
        began = time.perf_counter()
        measured = asdict(self.measure(student).measured)
        found: dict[str, Any] = {name: measured[name] for name in _GLANCED}
        if self.asked:
            found |= self._glanced_tasks(student)
        student.train()
        return found | {"seconds": time.perf_counter() - began}

    def _glanced_tasks(self, student: Student) -> dict[str, Any]:
        who = StudentAnswers(student, self.tokenizer)
        found = {}
        for task in self.asked:
            few = tasks.few(task, GLANCED_ITEMS)
            right = [one.right for one in self._answers(few, who)]
            of = "" if len(right) == len(task.items) else f", {len(right)} of {len(task.items)}"
            found[f"{task.name}{of}"] = sum(right) / len(right)
        return {"accuracy": found, "task_effort": asdict(who.effort)}

    def _answers(self, task: Task, who: StudentAnswers) -> list[Answer]:
        return tasks.ask(task, who, max_new_tokens=self.limits.task_tokens)

    def teacher(self, result: Result) -> dict[str, Any]:
        """Return the teachers' own figures on the same text; none where they say nothing of it."""
        found = result.scores.teacher()
        if found is None:
            return {}
        captured = [store for one in self.lessons if one.held for store in one.held.stores]
        speed = sum(store.tokens for store in captured) / sum(store.seconds for store in captured)
        names = ", ".join(one.config.name for one in self.lessons if one.held is not None)
        return {"name": names, "tokens_per_second": speed, **asdict(found)}

    def behind(self, result: Result) -> list[dict[str, Any]]:
        """Return the comparison on held-out text, none where no teacher speaks of it."""
        teacher, difference = result.scores.teacher(), result.scores.behind()
        if teacher is None or difference is None:
            return []
        taught = teacher.bits_per_byte
        student = taught + difference.difference
        return [_row("held-out text", "bits per byte", True, student, taught, difference)]

    def tasks(self, student: Student) -> list[dict[str, Any]]:
        """Return the comparison with each teacher on each task.

        Where no teacher answers, as those that are served do not, a row has the student's own
        accuracy with its interval, and None for teacher and difference.
        """
        who = StudentAnswers(student, self.tokenizer)
        rows = []
        for place, task in enumerate(self.asked):
            mine = self._answers(task, who)
            others = [one for one in self.lessons if one.tasks]
            rows += [self._compared(task, mine, one, one.tasks[place]) for one in others]
            if not others:
                rows.append(_alone(task, mine))
        self._effort += who.effort
        return rows

    def samples(self, student: Student) -> list[dict[str, Any]]:
        """Return how the student goes on where its teachers did, as the page shows it.

        A row has `id`, `prompt`, `student` and `teachers`, what each of them wrote by its name.
        """
        said: dict[str, dict[str, str]] = {}
        for one in self.lessons:
            for row in one.samples:
                said.setdefault(row["prompt"], {})[one.config.name] = row["teacher"]
        limit = self.limits.sample_tokens
        return [
            {
                "id": f"sample-{seed + 1}",
                "prompt": prompt,
                "teachers": teachers,
                "student": write_on(student, self.tokenizer, prompt, limit, seed=seed),
            }
            for seed, (prompt, teachers) in enumerate(said.items())
        ]

    def examined(self, metrics: Sequence[Row]) -> Examined:
        """Return what measuring took, the glances of these steps and the last tasks included."""
        glances = [row["held_out"] for row in metrics if row.get("held_out")]
        effort = sum((Effort(**g["task_effort"]) for g in glances if "task_effort" in g), Effort())
        windows = self.text.windows
        return Examined(
            looks=2 + len(glances),
            positions=windows.weights.size,
            counted=int((windows.weights > 0).sum()),
            heard={one.config.name: self._heard(one.held) for one in self.lessons if one.held},
            tasks=effort + self._effort,
        )

    def _heard(self, said: Said) -> int:
        """Return at how many positions that count one teacher speaks."""
        windows = self.text.windows
        window_N, inner_N = (place_WS.reshape(-1) for place_WS in np.indices(windows.weights.shape))
        rows = [rows.of(window_N, inner_N) for _, rows in said.voices]
        speaks_N = np.logical_or.reduce([row_N >= 0 for row_N in rows])
        return int((speaks_N & (windows.weights.reshape(-1) > 0)).sum())

    def _compared(
        self, task: Task, mine: Sequence[Answer], one: Lesson, theirs: Sequence[Answer]
    ) -> dict[str, Any]:
        right, known = [a.right for a in mine], [a.right for a in theirs]
        alone = sum(bool(other.tasks) for other in self.lessons) == 1
        name = task.name if alone else f"{task.name}, {one.config.name}"
        shares = sum(right) / len(right), sum(known) / len(known)
        row = _row(name, "accuracy", False, *shares, compare_accuracy(right, known))
        return row | {"task": tasks.report(task, mine, theirs)}


def _row(
    name: str, measure: str, lower_is_better: bool, student: float, teacher: float, of: Difference
) -> dict[str, Any]:
    return {
        "name": name,
        "measure": measure,
        "lower_is_better": lower_is_better,
        "student": student,
        "teacher": teacher,
        **asdict(of),
    }


def _alone(task: Task, mine: Sequence[Answer]) -> dict[str, Any]:
    """Return the row of a task that no teacher answers."""
    share, low, high = accuracy([answer.right for answer in mine])
    return {
        "name": task.name,
        "measure": "accuracy",
        "lower_is_better": False,
        "student": share,
        "teacher": None,
        "difference": None,
        "low": low,
        "high": high,
        "level": LEVEL,
        "n": len(mine),
        "clusters": len(mine),
        "task": tasks.report(task, mine, None),
    }


def glancing_seconds(metrics: Sequence[Row]) -> float:
    """Return the time of all glances, which is not part of their steps' own."""
    glances = (row["held_out"] for row in metrics if row.get("held_out"))
    return sum((glance["seconds"] for glance in glances), 0.0)


def history(
    name: str, before: Row, metrics: Sequence[Row], config: RunConfig
) -> list[dict[str, Any]]:
    """Return the held-out curves: this run's first, and those of the runs it is seen beside.

    Raises:
        InputError: one of those is no finished run.
    """
    own = _curve(name or "this run", before, metrics)  # a directory called . has no name
    return [own, *_beside(config)] if len(own["tokens"]) > 1 else []


def _require_curve(config: RunConfig) -> None:
    """Refuse to draw a run beside others that has no curve itself.

    Raises:
        InputError: it is never glanced at.
    """
    every, steps = config.evaluate.every_steps, config.train.steps
    if config.evaluate.beside and not 0 < every <= steps:
        raise InputError(
            "evaluate.beside: this run has no curve of its own, for evaluate.every_steps is "
            f"{every} and train.steps {steps}; set evaluate.every_steps, for example to "
            f"{max(1, steps // 8)}."
        )


def _beside(config: RunConfig) -> list[dict[str, Any]]:
    """Return the curve of each run that this one is to be seen beside."""
    found = []
    for path in map(Path, config.evaluate.beside):
        kept = files.read_json(path / "eval.json").get("held_out")
        if not kept:
            raise InputError(
                f"evaluate.beside: {path} has no held-out curve; finish that run with "
                "evaluate.every_steps set."
            )
        found.append(kept[0])  # a run's own comes first
    return found


def _curve(name: str, before: Row, metrics: Sequence[Row]) -> dict[str, Any]:
    """Return one run's curve: `name`, `tokens`, `text`, and a list for each measure.

    `text` tells one held-out text from another. Tasks are not asked before the first step.
    """
    looked = [(row["tokens"], row["held_out"]) for row in metrics if row.get("held_out")]
    points = [(0, before), *looked]
    found: dict[str, Any] = {
        "name": name,
        "tokens": [tokens for tokens, _ in points],
        "text": f"{before['tokens']:,} tokens, {before['bytes']:,} bytes",
    }
    for key in _GLANCED:
        values = [figures[key] for _, figures in points]
        if None not in values:
            found[key] = values
    for task in looked[-1][1].get("accuracy", {}) if looked else ():
        found[f"accuracy: {task}"] = [None, *(g["accuracy"][task] for _, g in looked)]
    return found
