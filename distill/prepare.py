"""Everything before the first step: teachers admitted, text read, lessons heard."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit import strict_yaml
from distill import examination, files, planning
from distill.evaluation.tasks import Task
from distill.lessons import curriculum, hearing, written
from distill.lessons.curriculum import Text
from distill.lessons.lesson import Lesson
from distill.session import Session
from distill.teachers import faculty
from distill.text import student_tokenizer
from distill.text.corpus import Passage
from student.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """What a run knows before it trains: its text, and all that its teachers say of it.

    Attributes:
        paths: of the teachers on disk, in the order of the config; None for the served.
        tokenizer: the student's.
        vocabulary: the student's.
        tasks: the user's questions.
        text: of both sides.
        lessons: a teacher each.
    """

    paths: list[Path | None]
    tokenizer: Any
    vocabulary: Vocabulary
    tasks: list[Task]
    text: Text
    lessons: list[Lesson]


def prepare(session: Session) -> Ready:
    """Admit the teachers, read the text, and ask them about it.

    Raises:
        TermsError: a teacher may not teach.
        InputError, MismatchError, WarmStartError: the inputs do not go together.
        TeacherError, EndpointError, BudgetError: a teacher cannot be asked.
        StorageError: the disk refused; what was finished is kept.
    """
    config = session.config
    faculty.require_heard(config)
    faculty.admit(config, session.say)
    paths = faculty.locate(config.teachers, session.say)
    planning.made_of(config, paths)  # what no student can be is refused before anyone is asked
    tokenizer, vocabulary = student_tokenizer.load(config.text.tokenizer, paths)
    tasks = examination.load(config, tokenizer)
    sides = curriculum.load(config)
    answers = written.gather(session, tokenizer, paths, sides.held)
    text = curriculum.read(config, sides, tokenizer, vocabulary, answers)
    if session.worker.rank == 0:  # several would write over one another
        # Only now that the inputs are known to be good does the directory belong to this config.
        files.write_text(session.out / "config.yaml", strict_yaml.dump(config))
        _write_passages(session.out / "heldout.jsonl", text.passages)
    return Ready(
        paths=paths,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        tasks=tasks,
        text=text,
        lessons=hearing.ask(session, text, tokenizer, vocabulary.size, paths, tasks),
    )


def _write_passages(path: Path, passages: Sequence[Passage]) -> None:
    """Keep the held-out prompts with their true continuations, in the form audit reads."""
    rows = [json.dumps(asdict(passage), ensure_ascii=False) for passage in passages]
    files.write_text(path, "".join(row + "\n" for row in rows))
