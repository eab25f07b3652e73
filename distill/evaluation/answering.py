"""Student and local teacher answer the questions of a task, each in its own tokens.

A text's likelihood after a prompt is that of the tokens of both joined, from the first token on
that reaches past the prompt. White space at the prompt's end counts as the text's, because most
tokenizers write a space and the word after it as one token; a token that straddles the seam all the
same counts whole. Every prompt begins with the begin token, as documents do in training.

Shapes: B sequences, S tokens, N positions, P of them that count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from distill.errors import InputError
from distill.evaluation.tasks import Task
from distill.heads import log_likelihood
from distill.signals import Head
from distill.teachers.local import LocalTeacher, rows_alike, write_tokens
from distill.text import chat
from distill.text.chat import Prompt
from distill.text.places import exact_ends, loose_ends
from distill.text.vocabulary import token_bytes
from student import device as devices
from student.documents import Documents
from student.generate import generate
from student.model import Student


@dataclass(frozen=True, slots=True)
class Effort:
    """What answering took.

    Attributes:
        sequences: rows that were read.
        positions: of all rows, those that were written and read again among them.
        applied: positions to which the head was applied.
    """

    sequences: int = 0
    positions: int = 0
    applied: int = 0

    def __add__(self, other: "Effort") -> "Effort":
        return Effort(
            self.sequences + other.sequences,
            self.positions + other.positions,
            self.applied + other.applied,
        )


class _Row(NamedTuple):
    """Tokens of a prompt and a text, and the place of the first that is the text's."""

    ids: list[int]
    first: int


class _Reader:
    """A tokenizer that knows which bytes its tokens stand for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.table = token_bytes(tokenizer)

    def row(self, prompt: Prompt, text: str) -> _Row:
        """Return a prompt and what follows it, in one piece."""
        before = chat.begin(self.tokenizer, prompt)
        ids = self._ids(before + text)
        spelt = [self.table[token] or b"" for token in ids]
        ends = exact_ends(spelt, (before + text).encode())
        if ends is None:
            ends = loose_ends(before + text, self.tokenizer)
        past = int((ends <= len(before.rstrip().encode())).sum())
        begun = self._begun(ids)
        return _Row(begun, past + len(begun) - len(ids))

    def prompt(self, prompt: Prompt) -> list[int]:
        """Return a prompt alone."""
        return self._begun(self._ids(chat.begin(self.tokenizer, prompt)))

    def texts(self, rows: Sequence[Sequence[int]], stop: Sequence[str]) -> list[str]:
        """Return what was written, each up to the first of `stop`."""
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
        return [text[: min(_places(text, stop), default=len(text))] for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _begun(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def _places(text: str, stop: Sequence[str]) -> list[int]:
    return [text.index(end) for end in stop if end in text]


def require_room(task: Task, tokenizer: Any, limit: int, *, max_new_tokens: int = 32) -> None:
    """Refuse a task with an item that does not fit into a model's positions.

    Args:
        task: as it will be asked.
        tokenizer: the model's.
        limit: positions of the model.
        max_new_tokens: as `tasks.ask` is given.

    Raises:
        InputError: names the first such item, and how long it is.
    """
    reader = _Reader(tokenizer)
    for item in task.items:
        if item.choices:
            needed = max(len(reader.row(item.prompt, choice).ids) for choice in item.choices)
        else:
            needed = len(reader.prompt(item.prompt)) + max_new_tokens
        if needed > limit:
            raise InputError(
                f"task {task.name!r}, item {item.id!r}: prompt and answer need {needed} tokens, "
                f"but the model reads {limit}; shorten it, or raise "
                "student.max_position_embeddings."
            )


class StudentAnswers:
    """A student, asked through its tokenizer.

    Attributes:
        effort: of all its answers so far; of what is written, up to each answer's end.
    """

    def __init__(self, student: Student, tokenizer: Any) -> None:
        """Ask `student`, which is put into eval mode."""
        self.student = student.eval()
        self.reader = _Reader(tokenizer)
        self.effort = Effort()

    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Return how likely each text is after its prompt, in nats."""
        rows = [self.reader.row(prompt, text) for prompt, text in pairs]
        self.effort += _read(rows)
        with devices.without_gradients(self.student.device):
            return _scored(rows, self._states, Head(self.student.head_weight()))

    def _states(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        lengths, device = [len(row) for row in inputs], self.student.device
        output = self.student(torch.cat(list(inputs)).to(device), Documents(lengths, device))
        return list(output.hidden_ND.split(lengths))

    def write(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return what is written greedily after each prompt, up to the first of `stop`."""
        rows = [self.reader.prompt(prompt) for prompt in prompts]

        def write(asked: list[list[int]]) -> list[list[int]]:
            return generate(self.student, asked, max_new_tokens=max_new_tokens)

        written = _in_parts(rows, write, max_new_tokens)
        self.effort += _written(rows, written, max_new_tokens)
        return self.reader.texts(written, stop)


class TeacherAnswers:
    """A local teacher, asked through its tokenizer.

    Attributes:
        effort: of all its answers so far; of what is written, up to each answer's end.
    """

    def __init__(self, teacher: LocalTeacher) -> None:
        self.teacher = teacher
        self.reader = _Reader(teacher.tokenizer)
        self.effort = Effort()

    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Return how likely each text is after its prompt, in nats."""
        rows = [self.reader.row(prompt, text) for prompt, text in pairs]
        self.effort += _read(rows)
        return _scored(rows, self._states, self.teacher.head)

    def _states(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        # Filled up on the right, where nothing looks back at the pads: no mask is needed.
        states_BST = self.teacher.hidden(pad_sequence(list(inputs), batch_first=True))
        return [states_ST[: len(row)] for states_ST, row in zip(states_BST, inputs, strict=True)]

    def write(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return what is written greedily after each prompt, up to the first of `stop`."""
        rows = [self.reader.prompt(prompt) for prompt in prompts]

        def write(asked: list[list[int]]) -> list[list[int]]:
            return write_tokens(self.teacher, asked, max_new_tokens)

        written = _in_parts(rows, write, max_new_tokens)
        self.effort += _written(rows, written, max_new_tokens)
        return self.reader.texts(written, stop)


def _in_parts(
    rows: Sequence[list[int]], write: Callable[[list[list[int]]], list[list[int]]], most: int
) -> list[list[int]]:
    """Return what `write` makes of each row; rows of like length go together."""
    found: dict[int, list[int]] = {}
    for part in rows_alike([len(row) + most for row in rows]):
        found |= zip(part, write([rows[i] for i in part]), strict=True)
    return [found[i] for i in range(len(rows))]


def _read(rows: Sequence[_Row]) -> Effort:
    """Return what it takes to score these rows."""
    each = (Effort(1, len(row.ids) - 1, len(row.ids) - row.first) for row in rows)
    return sum(each, Effort())


def _written(asked: Sequence[Sequence[int]], written: Sequence[Sequence[int]], most: int) -> Effort:
    """Return what it took to write up to `most` tokens after each prompt."""
    # The end token is picked, too; the last one picked is not read again.
    picked = [min(len(text) + 1, most) for text in written]
    each = (Effort(1, len(row) + n - 1, n) for row, n in zip(asked, picked, strict=True))
    return sum(each, Effort())


def _scored(rows: Sequence[_Row], states: Any, head: Head) -> list[float]:
    """Return the summed log-likelihood of each row's text; rows of like length go together."""
    found: dict[int, float] = {}
    for part in rows_alike([len(row.ids) for row in rows]):
        ids = [torch.tensor(rows[i].ids) for i in part]
        firsts = [rows[i].first for i in part]
        made = states([row[:-1] for row in ids])
        states_PT = torch.cat([s[first - 1 :] for s, first in zip(made, firsts, strict=True)])
        labels = [row[first:] for row, first in zip(ids, firsts, strict=True)]
        logp_P = log_likelihood(states_PT, head, torch.cat(labels).to(states_PT.device))
        sums = [float(logp.sum()) for logp in logp_P.cpu().split([len(row) for row in labels])]
        found |= zip(part, sums, strict=True)
    return [found[i] for i in range(len(rows))]
