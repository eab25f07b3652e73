"""A teacher behind an OpenAI-compatible endpoint: text, its likeliest tokens, or scores of a text.

Three ways to be taught, by what the server gives: texts it writes (any server); the same with the
likeliest tokens at each place, matched to the student's by their bytes (`top_logprobs`); and its
likeliest tokens at every position of given tokens (vLLM's `prompt_logprobs`). The answers are
logged and never asked twice (`audit.endpoint`).

Shapes: B sequences, S tokens, N = B (S - 1) positions, H likeliest tokens kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from audit import scores
from audit.endpoint import Endpoint, Reply, Request, Tell, question
from audit.question import Prompt, scoring, top_fields
from audit.scores import Position, Scored
from distill.errors import TeacherError
from distill.signals import Sparse
from distill.text.vocabulary import token_bytes

# Of the tokens a server writes, at most this share may be unknown to the student's tokenizer:
# halves of characters that a server does not spell out are, another tokenizer's tokens are more.
_UNKNOWN = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """A text the teacher wrote, in the student's tokens, with what it held likely at each.

    Attributes:
        text: as the server sent it.
        tokens: ids up to the first token the student's tokenizer does not have, the end token
            included where the server scores it.
        signal: `[len(tokens), H]`: row i is the distribution that tokens[i] was drawn from; no tail
            draws, entropy unknown.
        cut: scored tokens that are left out, from the first unknown one on.
        finished: whether the server says that the teacher was done.
    """

    text: str
    tokens: tuple[int, ...]
    signal: Sparse
    cut: int
    finished: bool


class EndpointTeacher:
    """A served model that writes, or that scores what others wrote."""

    def __init__(self, name: str, endpoint: Endpoint, tokenizer: Any, *, top: int = 20) -> None:
        """Take an endpoint; nothing is asked yet.

        Args:
            name: as it stands in every record.
            endpoint: whose log holds all answers.
            tokenizer: the student's, fast; the teacher's own has to be the same for everything
                but text.
            top: likeliest tokens to ask for at each place; 20 is the most that OpenAI and an
                unchanged vLLM give.
        """
        self.name = name
        self.endpoint = endpoint
        self.top = top
        self._bytes = token_bytes(tokenizer)
        self._end = tokenizer.eos_token_id
        # Where two ids stand for the same bytes, the lower one: ordinary before added.
        self._ids = {
            spelt: token
            for token, spelt in reversed(list(enumerate(self._bytes)))
            if spelt is not None
        }

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        sample: int = 0,
        tell: Tell | None = None,
    ) -> list[str]:
        """Return what the teacher writes to each prompt.

        Args:
            prompts: plain texts; for chat also messages; for completions also token ids.
            max_tokens: of each answer.
            temperature: 0 is the likeliest token every time.
            seed: asked of the server, which may not honour it.
            sample: asks equal prompts another time.
            tell: told how many of how many are answered.

        Raises:
            EndpointError: the server refuses, is gone, or answers as another model.
            BudgetError: a limit is reached.
        """
        fields = _sampling(temperature, seed)
        asked = [self._question(prompt, max_tokens, fields, sample) for prompt in prompts]
        return [reply.text for reply in self.endpoint.ask(asked, tell)]

    def answer_with_top(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        sample: int = 0,
        tell: Tell | None = None,
    ) -> list[Answer]:
        """Return what the teacher writes, with its `top` likeliest tokens at each place.

        The probability of tokens that the student does not have counts as the rest's. At another
        temperature than 1, `audit.preflight` has to have found that the server's log-probabilities
        do not depend on it.

        Raises:
            EndpointError: as `answer`; or scores that cannot be true.
            BudgetError: a limit is reached.
            TeacherError: the server gives none, or writes another tokenizer's tokens.
        """
        fields = _sampling(temperature, seed) | top_fields(self.endpoint.config, self.top)
        asked = [self._question(prompt, max_tokens, fields, sample) for prompt in prompts]
        answers = [self._read(reply) for reply in self.endpoint.ask(asked, tell)]
        self._require_own_tokens(answers)
        return answers

    def score(self, token_BS: torch.Tensor, tell: Tell | None = None) -> Sparse:
        """Return the teacher's likeliest tokens after every token of `token_BS` but the last.

        Row b (S - 1) + s is the distribution of `token_BS[b, s + 1]`, that token among its head.
        It is vLLM's `prompt_logprobs` of token ids, so nothing is tokenised on the way.

        Args:
            token_BS: int64, ids of the tokenizer that both share.
            tell: told how many of how many sequences are scored.

        Raises:
            EndpointError: as `answer`; or scores that cannot be true, or of other tokens.
            BudgetError: a limit is reached.
            TeacherError: the server scores no prompts.
        """
        rows = token_BS.tolist()
        config = self.endpoint.config
        replies = self.endpoint.ask([scoring(config, row, self.top) for row in rows], tell)
        found: list[Mapping[int, float]] = []
        for row, reply in zip(rows, replies, strict=True):
            scored = scores.of_prompt(reply, row)
            if scored is None:
                raise TeacherError(
                    f"teacher {self.name!r}: {reply.entry.url} answers without prompt_logprobs, "
                    "which vLLM gives; serve it with vLLM, or set says: text or top_logprobs."
                )
            found += [_probabilities(one) for one in scored]
        return _sparse(found)

    def _question(
        self, prompt: Prompt, max_tokens: int, fields: Mapping[str, Any], sample: int
    ) -> Request:
        return question(
            self.endpoint.config, prompt, max_tokens=max_tokens, fields=fields, sample=sample
        )

    def _read(self, reply: Reply) -> Answer:
        positions = scores.generated(reply)
        if positions is None:
            raise TeacherError(
                f"teacher {self.name!r}: {reply.entry.url} answers without log-probabilities; set "
                "says: text, or serve it with a server that gives top_logprobs."
            )
        inside = scores.spell(positions, reply)
        ids = [self._id(position.chosen) for position in positions]
        ends = len(ids) > inside and ids[inside] == self._end
        said = ids[: inside + ends]
        known = said.index(None) if None in said else len(said)
        rows = [self._head(position) for position in positions[:known]]
        return Answer(
            text=reply.text,
            tokens=tuple(token for token in said[:known] if token is not None),
            signal=_sparse(rows),
            cut=len(said) - known,
            finished=reply.finish_reason == "stop",
        )

    def _id(self, scored: Scored) -> int | None:
        """Return the student's id of a server's token, or None where it has none."""
        if scored.id is None:
            return None if scored.spelt is None else self._ids.get(scored.spelt)
        own = self._bytes[scored.id] if scored.id < len(self._bytes) else None
        if scored.spelt and own is not None and own != scored.spelt:
            raise TeacherError(
                f"teacher {self.name!r}: its token {scored.id} is {scored.spelt!r}, the student's "
                f"is {own!r}; their tokenizers differ, so set says: text."
            )
        return scored.id

    def _head(self, position: Position) -> dict[int, float]:
        """Return the probabilities of the likeliest tokens and of the one that was written."""
        found: dict[int, float] = {}
        for scored in (*position.top, position.chosen):
            token = self._id(scored)
            if token is not None and token not in found:
                found[token] = math.exp(scored.logp)
        return found

    def _require_own_tokens(self, answers: Sequence[Answer]) -> None:
        kept = sum(len(answer.tokens) for answer in answers)
        strange = sum(answer.cut > 0 for answer in answers)
        if strange > _UNKNOWN * (kept + strange):
            raise TeacherError(
                f"teacher {self.name!r}: {strange} of the first {kept + strange} tokens it writes "
                "are not tokens of the student; their tokenizers differ, so set says: text, or "
                "the server does not spell them, so set extra: {return_tokens_as_token_ids: true} "
                "on vLLM."
            )


def _sampling(temperature: float, seed: int | None) -> dict[str, Any]:
    return {"temperature": temperature} | ({} if seed is None else {"seed": seed})


def _probabilities(logps: Mapping[int, float]) -> dict[int, float]:
    return {token: math.exp(logp) for token, logp in logps.items()}


def _sparse(rows: Sequence[Mapping[int, float]]) -> Sparse:
    """Return the rows as one signal; what a row lacks to the longest is unused, p = 0."""
    width = max((len(row) for row in rows), default=0)
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    ps = [[*row.values(), *[0.0] * (width - len(row))] for row in rows]
    head_p_NH = torch.tensor(ps, dtype=torch.float64).reshape(len(rows), width)
    return Sparse(
        torch.tensor(ids, dtype=torch.int64).reshape(len(rows), width),
        head_p_NH.float(),
        torch.zeros(len(rows), 0, dtype=torch.int64),
        (1 - head_p_NH.sum(-1)).clamp_min(0.0).float(),
        torch.full((len(rows),), math.nan),
    )
