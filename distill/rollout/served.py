"""A server that answers in the student's place, on the way: asked once, logged, counted.

It may hold the student's own weights of some step, or be any other model on whose answers the
student is to be taught; which it is the user states by naming it. A question is filed under its
prompt and the seed of its writing, so a run that was stopped finds every answer it has paid for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audit.attest import LARGEST, file_digest
from audit.endpoint import Endpoint, Reply, Request, question
from audit.preflight import Need
from audit.question import EndpointConfig
from distill.errors import InputError
from distill.materials import material
from distill.prices import Asked
from distill.rollout.config import WRITER, RolloutConfig
from distill.rollout.rollouts import Prompt
from distill.session import Session
from distill.teachers import served
from distill.teachers.served import RESPONSES
from student.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ServedWriter:
    """A server that answers in text.

    Text becomes tokens of the student's, so an answer may be cut into others than were drawn.

    Attributes:
        asked: where it is.
        place: of its files; the log is open only while it is asked.
        tokenizer: the student's.
        vocabulary: the student's.
        config: how answers are drawn.
    """

    asked: EndpointConfig
    place: Path
    tokenizer: Any
    vocabulary: Vocabulary
    config: RolloutConfig

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        """Return the tokens of an answer to each prompt, the end token where the server stopped.

        One with no text is the end token alone.

        Raises:
            EndpointError: the server refuses, is gone, or answers as another model.
            BudgetError: a limit is reached.
        """
        requests = [self._question(prompt, seed, row) for row, prompt in enumerate(prompts)]
        with Endpoint(self.asked, self.place / RESPONSES) as endpoint:
            return [self._tokens(reply) for reply in endpoint.ask(requests)]

    def _question(self, prompt: Prompt, seed: int, row: int) -> Request:
        """Return what is asked; no other question of the run is filed under the same key.

        Args:
            prompt: what is to be answered.
            seed: of a writing and its batch.
            row: of the batch.
        """
        (word,) = np.random.SeedSequence((seed, row)).generate_state(1, np.uint64)
        own = int(word) >> 1
        # Servers take seeds of 32 bits, and draw alike for equal ones.
        fields = {"temperature": self.config.temperature, "seed": own % 2**31}
        if self.config.top_p < 1:
            fields["top_p"] = self.config.top_p
        most = self.config.max_new_tokens
        asked = prompt.messages if self.asked.api == "chat" else self._text(prompt.tokens)
        return question(
            self.asked, asked, max_tokens=most, fields=fields, sample=own % (LARGEST + 1)
        )

    def _text(self, tokens: tuple[int, ...]) -> str:
        # A server begins every text by itself.
        rest = tokens[1:] if tokens[0] == self.vocabulary.bos else tokens
        return str(self.tokenizer.decode(rest))

    def _tokens(self, reply: Reply) -> list[int]:
        ids: list[int] = self.tokenizer(reply.text, add_special_tokens=False)["input_ids"]
        row = ids[: self.config.max_new_tokens]
        ended = reply.finish_reason == "stop" and len(row) == len(ids)
        return [*row, self.vocabulary.eos] if ended or not row else row


def place_of(session: Session) -> Path:
    """Return where the server's preflight and log are, in the run's own directory."""
    return session.out / "rollouts" / "served"


def writer(
    session: Session, prompts: Sequence[Prompt], tokenizer: Any, vocabulary: Vocabulary
) -> ServedWriter:
    """Return the writer of a run, after its server was found to give what the run needs.

    Raises:
        InputError: a chat is asked for, and a prompt is none.
        EndpointError: the server does not give it, or is gone.
        BudgetError: a limit is reached.
    """
    config, place = session.config.rollout, place_of(session)
    assert config.endpoint is not None
    plain = sum(not prompt.messages for prompt in prompts)
    if config.endpoint.api == "chat" and plain:
        raise InputError(
            f"rollout.endpoint has api: chat, but {plain:,} of {len(prompts):,} prompts are plain "
            "text, which a chat does not go on from, or chats with tools; set "
            "rollout.endpoint.api: completions, or give chats alone."
        )
    needs: list[Need] = ["text", "sampling"] if config.temperature > 0 else ["text"]
    with served.turn(place, WRITER, session.say):
        served.look(WRITER, config.endpoint, needs, place, session.say)
    return ServedWriter(config.endpoint, place, tokenizer, vocabulary, config)


def asked_of(session: Session) -> Asked | None:
    """Return what was asked of the server so far, for the bill; None without one."""
    asked, place = session.config.rollout.endpoint, place_of(session)
    if asked is None or not place.is_dir():
        return None
    return served.asked_so_far(WRITER, asked, place, session.say)


def line(session: Session) -> dict[str, str] | None:
    """Return the record's line of what the server answered; None where it was asked nothing."""
    asked, log = session.config.rollout.endpoint, place_of(session) / RESPONSES
    if asked is None or not log.is_file():
        return None
    count = log.read_bytes().count(b"\n")
    note = f"{count:,} answers in the student's place; which weights is as the user states"
    return material(f"{asked.model} at {asked.base}", "answers on the way", file_digest(log), note)
