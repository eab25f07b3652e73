"""What a student is examined in: held-out text, and the task files that the user gives.

Both sides answer the same questions, so every difference is paired and has its interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill import files
from distill.batches import Reading
from distill.config import RunConfig
from distill.errors import InputError
from distill.evaluation import tasks
from distill.evaluation.answering import StudentAnswers, require_room
from distill.evaluation.evaluate import Measured, Scores, measure
from distill.evaluation.intervals import Difference, compare_accuracy
from distill.evaluation.tasks import Answer, Task
from distill.lessons.curriculum import Text, shares
from distill.lessons.lesson import Lesson, routes
from distill.session import Session
from student.model import Student

# What a glance during training keeps of the held-out figures.
_GLANCED = ("kl", "reverse_kl", "top1_agreement", "bits_per_byte")

Row = Mapping[str, Any]


def load(config: RunConfig, tokenizer: Any) -> list[Task]:
    """Return the run's tasks, which all fit into the student's positions.

    Raises:
        InputError: a file cannot be read, an item does not fit, two files have one name, or a run
            that this one is to be seen beside has no curve.
    """
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
        self.task_tokens = config.evaluate.task_tokens

    def measure(self, student: Student) -> Result:
        """Return the student's figures on all held-out windows."""
        scores, speed = measure(student, self.text)
        return Result(measured=scores.measured(speed), scores=scores)

    def glance(self, student: Student) -> dict[str, float | None]:
        """Return a few held-out figures; the student trains on after that."""
        measured = asdict(self.measure(student).measured)
        student.train()
        return {name: measured[name] for name in _GLANCED}

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
        """Return the comparison with each teacher on each task."""
        if not self.asked:
            return []
        who = StudentAnswers(student, self.tokenizer)
        rows = []
        for place, task in enumerate(self.asked):
            mine = tasks.ask(task, who, max_new_tokens=self.task_tokens)
            for one in self.lessons:
                if one.tasks:
                    rows.append(self._compared(task, mine, one, one.tasks[place]))
        return rows

    def _compared(
        self, task: Task, mine: Sequence[Answer], one: Lesson, theirs: Sequence[Answer]
    ) -> dict[str, Any]:
        right, known = [a.right for a in mine], [a.right for a in theirs]
        alone = sum(bool(other.tasks) for other in self.lessons) == 1
        name = task.name if alone else f"{task.name}, {one.config.name}"
        accuracy = sum(right) / len(right), sum(known) / len(known)
        row = _row(name, "accuracy", False, *accuracy, compare_accuracy(right, known))
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


def history(
    name: str, before: Row, metrics: Sequence[Row], config: RunConfig
) -> list[dict[str, Any]]:
    """Return the held-out curves: this run's, and those of the runs it is to be seen beside.

    Raises:
        InputError: one of those is no finished run.
    """
    own = _curve(name, before, metrics)
    return [own, *_beside(config)] if len(own["tokens"]) > 1 else _beside(config)


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
        found.append(kept[0])
    return found


def _curve(name: str, before: Row, metrics: Sequence[Row]) -> dict[str, Any]:
    looked = [(row["tokens"], row["held_out"]) for row in metrics if row.get("held_out")]
    points = [(0, before), *looked]
    found: dict[str, Any] = {"name": name, "tokens": [tokens for tokens, _ in points]}
    for key in _GLANCED:
        values = [figures[key] for _, figures in points]
        if None not in values:
            found[key] = values
    return found
