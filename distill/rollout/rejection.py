"""Rejection sampling: of a teacher's answers to questions with known answers, keep the right ones.

As the DeepSeek-R1 report makes its training text (arXiv 2501.12948, section 2.3.3): several answers
are drawn for every prompt, and those that a checker accepts are kept. Every answer is on disk as
soon as its batch came, before it is judged: a run that was stopped goes on, and other checkers or
corrected references cost no answer again.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audit.attest import digest
from distill.errors import InputError, MismatchError, StorageError
from distill.files import write_json, write_text
from distill.rollout.checkers import last_number, verdict
from distill.rollout.config import Checker, Number, RejectionConfig
from distill.rollout.rollouts import TextWriter
from distill.text import sources

SCHEMA = "spiritsafe.answers/1"
_COLUMNS = ("id", "prompt", "answer", "tag")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt and its known answers, any of which is right.

    Attributes:
        tag: goes with what is kept, and says which teacher teaches it.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    tag: str


def read_questions(path: Path, *, answered: bool = True) -> list[Question]:
    """Return the questions of a file of rows {"prompt", "answer"}, with "id" and "tag" if given.

    "answer" is a text, a number, or a list of those; where the questions need not be `answered`,
    it may be left out.

    Raises:
        InputError: a row is not that, or two have one id; names file and row.
    """
    found: dict[str, Question] = {}
    tag = path.resolve().name.split(".")[0]
    for number, (where, row) in enumerate(sources.rows(path, _COLUMNS), 1):
        name = str(row.get("id", number))
        if name in found:
            raise InputError(f"{where}: the id {name!r} is another row's already; give it its own.")
        references = tuple(_references(row.get("answer")))
        if not isinstance(row.get("prompt"), str) or (answered and not references):
            more = " and one under 'answer'" if answered else ""
            raise InputError(f"{where}: needs a text under 'prompt'{more}.")
        asked = Question(
            id=name, prompt=row["prompt"], references=references, tag=str(row.get("tag", tag))
        )
        sources.require_unicode(list(asdict(asked).values()), where)
        found[name] = asked
    return list(found.values())


def _references(answer: Any) -> Iterator[str]:
    for value in answer if isinstance(answer, list) else [answer]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number or (isinstance(value, str) and value.strip()):
            yield str(value)


class Answer(NamedTuple):
    """One answer, a line of `answers.jsonl`; `sample` counts the answers to one prompt from 0."""

    id: str
    sample: int
    response: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How it went.

    Attributes:
        prompts: asked, each `samples` times.
        answers: that came.
        accepted: answers that a checker accepts.
        kept: of them, different ones and at most `keep` a prompt.
        prompts_without: prompts of which no answer was accepted.
        acceptance: accepted answers over answers.
        accepted_by: how many each kind of checker was the first to accept.
        acceptance_by_prompt: by id.
    """

    prompts: int
    answers: int
    accepted: int
    kept: int
    prompts_without: int
    acceptance: float
    accepted_by: dict[str, int]
    acceptance_by_prompt: dict[str, float]


def sample(
    questions: Sequence[Question],
    teacher: TextWriter,
    config: RejectionConfig,
    out: Path,
    *,
    teacher_sha256: str,
    seed: int,
    progress: Callable[[int, int], None],
) -> Summary:
    """Ask, check and keep; write `answers.jsonl`, `accepted.jsonl` and `summary.json` to `out`.

    Args:
        questions: with ids of their own.
        teacher: whose answers are a function of prompts and seed.
        config: how many are asked for and kept.
        out: a directory; what an earlier call finished there is not asked for again.
        teacher_sha256: digest of the teacher and of how it writes.
        seed: of what is drawn.
        progress: told how many answers there are, of how many.

    Raises:
        InputError: there is no question, or references are not what the checkers compare.
        MismatchError: `out` holds answers to something else.
        StorageError: the disk refused, or a file in `out` is damaged.
    """
    _check(questions, config.checkers)
    log = _Log(out / "answers.jsonl", _key(questions, config, teacher_sha256, seed))
    total = config.samples * len(questions)
    answers = log.read(config.batch_size, len(questions))[:total]
    while len(answers) < total:
        progress(len(answers), total)
        made = _ask(questions, teacher, config, seed, first=len(answers))
        log.append(made)
        answers += made
    progress(total, total)
    right = _right(questions, answers, config.checkers)
    kept = _kept(questions, right, config.keep)
    write_text(out / "accepted.jsonl", "".join(_line(row) for row in kept))
    summary = _summary(questions, right, config.samples, len(kept))
    write_json(out / "summary.json", asdict(summary))
    return summary


def answered(out: Path) -> list[Answer]:
    """Return the answers that `sample` left in `out`, in the order of asking."""
    _, *lines = (out / "answers.jsonl").read_text(encoding="utf-8").split("\n")
    return [Answer(**json.loads(line)) for line in lines if line]


def _check(questions: Sequence[Question], checkers: Sequence[Checker]) -> None:
    if not questions:
        raise InputError("there is no question; give a file with a prompt and an answer a row.")
    if not all(isinstance(checker, Number) for checker in checkers):
        return
    for question in questions:
        if all(last_number(reference) is None for reference in question.references):
            raise InputError(
                f"question {question.id!r} has no number in its answer, but numbers are all that "
                "is checked; mend it or add another checker."
            )


def _key(
    questions: Sequence[Question], config: RejectionConfig, teacher_sha256: str, seed: int
) -> dict[str, Any]:
    """Return what the answers are a function of; which are right is decided anew each time."""
    return {
        "teacher_sha256": teacher_sha256,
        "prompts_sha256": digest([[question.id, question.prompt] for question in questions]),
        "batch_size": config.batch_size,
        "seed": seed,
    }


def _ask(
    questions: Sequence[Question],
    teacher: TextWriter,
    config: RejectionConfig,
    seed: int,
    *,
    first: int,
) -> list[Answer]:
    """Return one batch of answers, each the next one to its prompt."""
    number, start = divmod(first, len(questions))
    part = questions[start : start + config.batch_size]
    (word,) = np.random.SeedSequence((seed, number, start)).generate_state(1, np.uint64)
    texts = teacher.write([question.prompt for question in part], int(word) >> 1)
    return [
        # JSON can spell half of a surrogate pair, which no file can hold.
        Answer(asked.id, number, text.encode("utf-8", "replace").decode())
        for asked, text in zip(part, texts, strict=True)
    ]


class _Log:
    """`answers.jsonl`: the key, then every answer in the order of asking."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self.key = key

    def read(self, batch_size: int, count: int) -> list[Answer]:
        """Return the answers of finished batches to `count` prompts; the file has no others then.

        Raises:
            MismatchError: they are answers to something else.
            StorageError: the file is damaged.
        """
        if not self.path.is_file():
            write_text(self.path, _line({"schema": SCHEMA, "key": self.key}))
            return []
        # Not splitlines: JSON allows U+2028 and its like inside a text, where they end no line.
        head, *whole, torn = self.path.read_text(encoding="utf-8").split("\n")
        try:
            self._refuse_other(json.loads(head)["key"])
            answers = [Answer(**json.loads(line)) for line in whole]
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{self.path} is damaged; delete it to ask again.") from error
        rounds, rest = divmod(len(answers), count)
        finished = rounds * count + rest // batch_size * batch_size
        if finished < len(answers) or torn:
            write_text(self.path, "\n".join([head, *whole[:finished], ""]))
        return answers[:finished]

    def _refuse_other(self, found: dict[str, Any]) -> None:
        differs = [name for name, value in self.key.items() if found.get(name) != value]
        if differs:
            raise MismatchError(
                f"{self.path} holds answers with a different {', '.join(differs)}; choose another "
                "directory, or delete this one to ask again."
            )

    def append(self, answers: Sequence[Answer]) -> None:
        """Add a batch; it is on the disk when this returns.

        Raises:
            StorageError: the disk refused.
        """
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(_line(answer._asdict()) for answer in answers))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; what was finished is kept, "
                "so free space and run the same command again."
            ) from error


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


Right = dict[str, list[tuple[Answer, str]]]


def _right(
    questions: Sequence[Question], answers: Sequence[Answer], checkers: Sequence[Checker]
) -> Right:
    """Return each prompt's accepted answers, in the order they came, and what accepted them."""
    right: Right = {question.id: [] for question in questions}
    references = {question.id: question.references for question in questions}
    for answer in answers:
        kind = verdict(checkers, answer.response, references[answer.id])
        if kind is not None:
            right[answer.id].append((answer, kind))
    return right


def _kept(questions: Sequence[Question], right: Right, keep: int) -> list[dict[str, Any]]:
    """Return the rows of `accepted.jsonl`, which a run reads as chats, prompt by prompt."""
    rows = []
    for question in questions:
        different: dict[str, tuple[Answer, str]] = {}
        for answer, kind in right[question.id]:
            different.setdefault(answer.response.strip(), (answer, kind))
        rows += [
            {
                "id": question.id,
                "prompt": question.prompt,
                "response": answer.response,
                "tag": question.tag,
                "accepted_by": kind,
                "sample": answer.sample,
            }
            for answer, kind in list(different.values())[:keep]
        ]
    return rows


def _summary(questions: Sequence[Question], right: Right, samples: int, kept: int) -> Summary:
    counts = {question.id: len(right[question.id]) for question in questions}
    accepted, answers = sum(counts.values()), samples * len(questions)
    return Summary(
        prompts=len(questions),
        answers=answers,
        accepted=accepted,
        kept=kept,
        prompts_without=sum(count == 0 for count in counts.values()),
        acceptance=accepted / answers,
        accepted_by=dict(Counter(kind for found in right.values() for _, kind in found)),
        acceptance_by_prompt={name: count / samples for name, count in counts.items()},
    )
