"""The student's own answers: which prompts, written when, by whom, and kept so as to be read again.

One writing serves `refresh_steps` steps and is one shard of a store in mode `text`. It is a
function of the weights, the seed and the step, and is stored before it is used: a run that was
stopped after it reads it again, and a replay of the run has no need to write.

Shapes: B rows, N positions, K tokens = N + B: a row's last token is the label of its last position.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from audit.attest import digest
from distill.errors import InputError, StorageError
from distill.rollout.config import RolloutConfig
from distill.rollout.writings import Writings
from distill.store.shard import Key, Sequences
from distill.text import chat
from distill.text.sources import Document, Message
from student.generate import Sampling, generate
from student.model import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is answered, and the tag that says who teaches the answer.

    Attributes:
        tokens: the begin token and what follows it.
        messages: the same as a chat; empty for plain text, and for a chat with tools.
    """

    tokens: tuple[int, ...]
    tag: str
    messages: tuple[Message, ...] = ()


def prompts(
    documents: Sequence[Document],
    tokenizer: Any,
    *,
    tags: Sequence[str],
    length: int,
    longest: int | None = None,
) -> list[Prompt]:
    """Return what documents ask: of a chat all before its last answer, of a text its beginning.

    Args:
        documents: of the training side.
        tokenizer: the student's.
        tags: that teachers name; a document of another tag has none.
        length: tokens of a text that are the prompt, the begin token among them.
        longest: tokens that leave room for an answer.

    Raises:
        InputError: a chat does not fit its template, or asks more than `longest` tokens.
    """
    bos = tokenizer.bos_token_id
    found = []
    for document in documents:
        if document.messages:
            ids = _asked(chat.encode(tokenizer, document))
        else:
            ids = tokenizer(document.text, add_special_tokens=False)["input_ids"][: length - 1]
        begun = ids if ids[:1] == [bos] else [bos, *ids]
        if longest is not None and len(begun) > longest:
            raise InputError(
                f"{document.id}: what it asks is {len(begun)} tokens long, and {longest} leave "
                "room for an answer; shorten it or raise student.max_position_embeddings."
            )
        tag = document.tag if document.tag in tags else ""
        found.append(Prompt(tokens=tuple(begun), tag=tag, messages=_turns(document)))
    return found


def _asked(encoded: chat.Encoded) -> list[int]:
    """Return the tokens before the last stretch that the assistant wrote."""
    begins = encoded.counted & ~np.roll(encoded.counted, 1)
    ids: list[int] = encoded.ids[: np.flatnonzero(begins)[-1]].tolist()
    return ids


def _turns(document: Document) -> tuple[Message, ...]:
    """Return the messages before the last answer of a chat without tools."""
    if document.tools:
        return ()
    places = [i for i, turn in enumerate(document.messages) if turn["role"] == "assistant"]
    return document.messages[: places[-1]] if places else ()


def key(
    prompts: Sequence[Prompt], run_sha256: str, vocab_size: int, *, writer: str = "student"
) -> Key:
    """Return the key of a run's writings.

    Args:
        prompts: all of them, in order.
        run_sha256: of whatever else the student's weights depend on, the seed too.
        vocab_size: of the tokens.
        writer: who answers; of a server, the model it is asked for.
    """
    asked = digest([[prompt.tag, *prompt.tokens] for prompt in prompts])
    settings = {"writer": writer, "prompts_sha256": asked}
    return Key(mode="text", teacher_sha256=run_sha256, vocab_size=vocab_size, settings=settings)


class Writer(Protocol):
    """Whoever answers: the student, or a server in its place (`served.py`)."""

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        """Return the tokens of an answer to each prompt, the end token too where it ended."""
        ...


class TextWriter(Protocol):
    """Whoever answers in text: an endpoint, or a local teacher with its tokenizer."""

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Return an answer to each prompt; the same ones for the same prompts and seed."""
        ...


@dataclass(frozen=True, slots=True)
class StudentWriter:
    """The student itself, by cached decoding."""

    student: Student
    config: RolloutConfig

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        """Return the tokens of an answer to each prompt, the end token too where it ended."""
        how = Sampling(temperature=self.config.temperature, top_p=self.config.top_p, seed=seed)
        most, eos = self.config.max_new_tokens, self.student.vocabulary.eos
        asked = [prompt.tokens for prompt in prompts]
        written = generate(self.student, asked, max_new_tokens=most, sampling=how)
        return [row if len(row) == most else [*row, eos] for row in written]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """The student's rows of one step.

    Attributes:
        text: prompts and answers; the answers count.
        tags: who teaches each row.
        staleness: steps taken since the weights that wrote them.
        seconds: that this step spent on writing; 0 where an earlier one did.
    """

    text: Sequences
    tags: tuple[str, ...]
    staleness: int
    seconds: float


class _Writing(NamedTuple):
    """One writing, as it was read."""

    number: int
    text: Sequences
    tags: list[str]


class Rollouts:
    """The student's rows of every step, written when they are first needed."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        config: RolloutConfig,
        writer: Writer,
        writings: Writings,
        *,
        size: int,
        seed: int,
    ) -> None:
        """Take `size` prompts a step, each once before any comes again.

        Args:
            prompts: of the text.
            config: how they are answered.
            writer: who answers.
            writings: of this run; see `key`.
            size: rows a step.
            seed: of shuffles and of what is drawn.

        Raises:
            InputError: there is no prompt.
        """
        if not prompts:
            raise InputError("the text has no prompt to answer; give text, or rollout.fraction: 0.")
        self.prompts = tuple(prompts)
        self.config = config
        self.writer = writer
        self.writings = writings
        self.size = size
        self.seed = seed
        self._current: _Writing | None = None

    def at(self, step: int) -> Rollout:
        """Return the rows of `step` (from 1).

        Steps are taken in order; only the first of a writing's steps can write, for only then are
        the weights the right ones.

        Raises:
            StorageError: the rows of a step in the midst of a writing are not there.
        """
        number, place = divmod(step - 1, self.config.refresh_steps)
        seconds = 0.0
        current = self._current
        if current is None or current.number != number:
            if number >= len(self.writings):
                seconds = self._write(number, place)
            tags = [self.prompts[i].tag for i in self._chosen(number)]
            current = _Writing(number, self.writings.read(number), tags)
            self._current = current
        rows = range(place * self.size, (place + 1) * self.size)
        return Rollout(
            text=_rows(current.text, rows),
            tags=tuple(current.tags[row] for row in rows),
            staleness=place,
            seconds=seconds,
        )

    def _write(self, number: int, place: int) -> float:
        """Have a writing written and stored; return the seconds it took."""
        there = len(self.writings)
        if place or number > there:
            raise StorageError(
                f"{self.writings.path} lacks writing {there} of the student's answers, and the "
                "weights that wrote it are gone; restore it, or delete the run's checkpoints and "
                "run again."
            )
        began = time.perf_counter()
        asked = [self.prompts[i] for i in self._chosen(number)]
        answers: list[list[int]] = []
        for start in range(0, len(asked), self.config.batch_size):
            part = asked[start : start + self.config.batch_size]
            answers += self.writer.write(part, self._draw(number, start))
        seconds = time.perf_counter() - began
        self.writings.add(join([prompt.tokens for prompt in asked], answers), seconds)
        return seconds

    def _draw(self, number: int, start: int) -> int:
        """Return the seed of one batch of answers; no two batches of a run share one."""
        (word,) = np.random.SeedSequence((self.seed, number, start)).generate_state(1, np.uint64)
        return int(word) >> 1

    def _chosen(self, number: int) -> list[int]:
        """Return the prompts of a writing: each epoch is one seeded shuffle of all of them."""
        many, count = self.size * self.config.refresh_steps, len(self.prompts)
        places = range(number * many, (number + 1) * many)
        epochs = {place // count for place in places}
        # Another shuffle than the text's own, of which prompts may be the openings.
        order = {e: np.random.default_rng((self.seed, e, 1)).permutation(count) for e in epochs}
        return [int(order[place // count][place % count]) for place in places]


def join(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Sequences:
    """Return rows of a prompt and its answer, of which the answer's tokens count."""
    pairs = list(zip(prompts, answers, strict=True))
    tokens = [torch.tensor([*prompt, *answer]) for prompt, answer in pairs]
    counted = [torch.arange(1, len(p) + len(a)) >= len(p) for p, a in pairs]
    return Sequences.of(tokens, counted)


def _rows(text: Sequences, rows: Iterable[int]) -> Sequences:
    tokens, counted = text.split(), text.counted_N.split(text.length_B.tolist())
    chosen = list(rows)
    return Sequences.of([tokens[i] for i in chosen], [counted[i] for i in chosen])
