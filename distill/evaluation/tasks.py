"""A lab's own questions: read from a file, put to student and teacher alike, and compared.

Multiple choice is answered by whichever choice is likeliest after the prompt, as it is and a byte
(Brown et al., arXiv 2005.14165, section 2.4); a tie answers nothing. Exact match is answered by
writing greedily. Examples and instructions are part of the user's prompts. Every item's outcome
is kept, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from distill.errors import InputError
from distill.evaluation.intervals import compare_accuracy
from distill.text import corpus
from distill.text.chat import Prompt
from distill.text.sources import Row, chat, require_unicode, rows

_COLUMNS = ("id", "prompt", "messages", "choices", "answer", "casefold", "stop")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question.

    Attributes:
        id: its own, or its number in the file.
        prompt: a text, or messages for a chat template.
        choices: what may be chosen; empty for exact match.
        answers: what is right: one of the choices, or any of these texts.
        casefold: whether a written answer may be of another case.
        stop: texts that end a written answer; they are not part of it.
    """

    id: str
    prompt: Prompt
    choices: tuple[str, ...]
    answers: tuple[str, ...]
    casefold: bool
    stop: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A file of questions of one kind, called by the file's name without its ending."""

    name: str
    kind: Literal["multiple choice", "exact match"]
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one model answered.

    Attributes:
        id: of the item.
        said: the choice, or what was written up to its stop; empty where choices tie.
        right: whether that is right.
        right_by_byte: the same of the choice likeliest a byte; None for exact match.
    """

    id: str
    said: str
    right: bool
    right_by_byte: bool | None = None


class Answerer(Protocol):
    """Whoever is asked; `answering` has the student and a local teacher."""

    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Return how likely each text is after its prompt, in nats."""
        ...

    def write(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return what is written greedily after each prompt, up to the first of `stop`."""
        ...


def load(path: Path) -> Task:
    """Return the task in a file: {"prompt" or "messages", "answer"}, with "choices" or without.

    `answer` is a choice or its place from 0; for exact match a text, or several that all are
    right. "id", "casefold" (false) and "stop" (a line's end after a text, nothing after messages)
    may be given.

    Raises:
        InputError: the file cannot be read, a row is not that, or kinds or ids are mixed up.
    """
    items: list[Item] = []
    seen: dict[str, str] = {}
    for number, (where, row) in enumerate(rows(path, _COLUMNS), 1):
        item = _item(row, where, str(row.get("id", number)))
        if item.id in seen:
            raise InputError(f"{where}: the id {item.id!r} is that of {seen[item.id]}, too.")
        if items and bool(item.choices) != bool(items[0].choices):
            raise InputError(f"{where}: 'choices' must be in all rows of a task, or in none.")
        require_unicode(list(asdict(item).values()), where)
        seen[item.id] = where
        items.append(item)
    kind: Literal["multiple choice", "exact match"] = (
        "multiple choice" if items[0].choices else "exact match"
    )
    return Task(name=path.resolve().name.split(".")[0], kind=kind, items=tuple(items))


def _item(row: Row, where: str, name: str) -> Item:
    choices = _texts(row, "choices", where) if "choices" in row else ()
    if choices and (len(choices) < 2 or len(set(choices)) < len(choices)):
        raise InputError(f"{where}: 'choices' must be at least two, and all different.")
    prompt = _prompt(row, where)
    if not isinstance(row.get("casefold", False), bool):
        raise InputError(f"{where}: 'casefold' must be true or false.")
    ends = () if "messages" in row else ("\n",)
    return Item(
        id=name,
        prompt=prompt,
        choices=choices,
        answers=(_choice(row, choices, where),) if choices else _texts(row, "answer", where),
        casefold=row.get("casefold", False),
        stop=_texts(row, "stop", where) if row.get("stop") else ends if "stop" not in row else (),
    )


def _prompt(row: Row, where: str) -> Prompt:
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    if "messages" not in row:
        raise InputError(f"{where}: needs a text under 'prompt', or a chat under 'messages'.")
    return tuple(chat(row["messages"], where, answered=False))


def _texts(row: Row, key: str, where: str) -> tuple[str, ...]:
    """Return the text, or the texts, under `key`: at least one, none empty."""
    given = row.get(key)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise InputError(f"{where}: {key!r} must be a text or a list of texts, none empty.")
    return tuple(texts)


def _choice(row: Row, choices: Sequence[str], where: str) -> str:
    answer = row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer]
    if isinstance(answer, str) and answer in choices:
        return answer
    raise InputError(
        f"{where}: 'answer' must be one of the choices or its place, 0 to {len(choices) - 1}, "
        f"not {answer!r}."
    )


def few(task: Task, count: int) -> Task:
    """Return a task of at most `count` of these items, evenly taken."""
    chosen = corpus.evenly(len(task.items), count)
    return replace(task, items=tuple(task.items[place] for place in chosen))


def ask(task: Task, who: Answerer, *, max_new_tokens: int = 32) -> list[Answer]:
    """Return what `who` answers to every item of a task, in order."""
    if task.kind == "multiple choice":
        return _choose(task.items, who)
    return _write(task.items, who, max_new_tokens)


def _choose(items: Sequence[Item], who: Answerer) -> list[Answer]:
    likely = iter(who.log_likelihoods([(i.prompt, choice) for i in items for choice in i.choices]))
    found = []
    for item in items:
        nats = [next(likely) for _ in item.choices]
        a_byte = [n / len(c.encode()) for n, c in zip(nats, item.choices, strict=True)]
        said = _likeliest(item.choices, nats)
        by_byte = _likeliest(item.choices, a_byte)
        found.append(
            Answer(
                id=item.id,
                said=said,
                right=said in item.answers,
                right_by_byte=by_byte in item.answers,
            )
        )
    return found


def _likeliest(choices: Sequence[str], nats: Sequence[float]) -> str:
    """Return the choice above all others; nothing where there is none."""
    best = max(nats)
    alone = nats.count(best) == 1 and not any(map(math.isnan, nats))
    return choices[nats.index(best)] if alone else ""


def _write(items: Sequence[Item], who: Answerer, max_new_tokens: int) -> list[Answer]:
    said: dict[str, str] = {}
    for stop in dict.fromkeys(item.stop for item in items):
        these = [item for item in items if item.stop == stop]
        prompts = [item.prompt for item in these]
        texts = who.write(prompts, max_new_tokens=max_new_tokens, stop=stop)
        said |= {item.id: text for item, text in zip(these, texts, strict=True)}
    return [
        Answer(id=item.id, said=said[item.id], right=_matches(said[item.id], item))
        for item in items
    ]


def _matches(said: str, item: Item) -> bool:
    """Tell whether a text is one of the answers, white space around it aside."""

    def normal(text: str) -> str:
        return text.strip().casefold() if item.casefold else text.strip()

    return normal(said) in [normal(answer) for answer in item.answers]


def report(
    task: Task, student: Sequence[Answer], teacher: Sequence[Answer] | None
) -> dict[str, Any]:
    """Return what `eval.json` says of a task: both accuracies, and how far apart they are.

    Differences are the student's minus the teacher's; see `intervals.compare_accuracy`. Without a
    teacher the student's accuracy stands alone.
    """
    assert [a.id for a in student] == [i.id for i in task.items]
    assert teacher is None or [a.id for a in teacher] == [i.id for i in task.items]
    found: dict[str, Any] = {"name": task.name, "kind": task.kind, "items": len(task.items)}
    theirs = None if teacher is None else [a.right for a in teacher]
    found |= _compared([a.right for a in student], theirs)
    if task.kind == "multiple choice":
        theirs = None if teacher is None else [bool(a.right_by_byte) for a in teacher]
        found["by_byte"] = _compared([bool(a.right_by_byte) for a in student], theirs)
    return found


def _compared(student: Sequence[bool], teacher: Sequence[bool] | None) -> dict[str, Any]:
    alone = {"student": sum(student) / len(student)}
    if teacher is None:
        return alone
    return alone | {
        "teacher": sum(teacher) / len(teacher),
        "difference": asdict(compare_accuracy(student, teacher)),
    }
