"""Log-probabilities in a served model's answer, read strictly.

Three forms of scores of generated tokens (chat's; completions' lists; llama.cpp's completions in
the form of chat) become one; vLLM's `prompt_logprobs` are the scores of a given text. What cannot
be true is refused: lists of unequal lengths, NaN, probabilities above 1 or adding up to more, and
tokens that do not spell the text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit.errors import EndpointError
from audit.question import Reply

NEVER = -9999.0  # what servers write for minus infinity, which JSON has no number for
_SLACK = 1e-3  # rounding of a probability that is 1
_BY_ID = "token_id:"  # vLLM's spelling under return_tokens_as_token_ids
_LOST = "\ufffd"  # what stands for a part of a character
_PART = 4  # bytes a token that shows no text can stand for, at most, in what follows


@dataclass(frozen=True, slots=True)
class Scored:
    """A token and its log-probability, nats; minus infinity for one that is never written.

    Attributes:
        text: as the server spells it.
        spelt: its bytes; None where the server gives none that are certain.
        id: in the server's vocabulary, where it says.
    """

    text: str
    spelt: bytes | None
    id: int | None
    logp: float


@dataclass(frozen=True, slots=True)
class Position:
    """A generated token, and the likeliest tokens at its place, likeliest first as a rule."""

    chosen: Scored
    top: tuple[Scored, ...]


def generated(reply: Reply) -> list[Position] | None:
    """Return the scores of the tokens an answer consists of, or None where it gives none.

    Raises:
        EndpointError: they cannot be true.
    """
    logprobs = reply.choices[0].get("logprobs")
    if not isinstance(logprobs, dict):
        return None
    if isinstance(logprobs.get("content"), list):
        found = [_chat_entry(entry, reply) for entry in logprobs["content"]]
    elif isinstance(logprobs.get("tokens"), list):
        found = _lists(logprobs, reply)
    else:
        return None
    for number, position in enumerate(found, 1):
        _require_probabilities([scored.logp for scored in position.top], reply, number)
    counted = reply.used("completion_tokens")
    if counted is not None and len(found) > counted:
        raise _wrong(reply, f"scores {len(found)} tokens of an answer of {counted}")
    return found


def _chat_entry(entry: Any, reply: Reply) -> Position:
    if not isinstance(entry, dict) or "token" not in entry:
        raise _wrong(reply, "holds an entry of logprobs without a token")
    top = entry.get("top_logprobs") or []
    return Position(_scored(entry, reply), tuple(_scored(one, reply) for one in top))


def _scored(entry: Mapping[str, Any], reply: Reply) -> Scored:
    text, listed = str(entry["token"]), entry.get("bytes")
    # A server that encodes what it shows has lost the bytes of half a character.
    spelt = bytes(listed) if isinstance(listed, list) else None
    if spelt is None or (_LOST in text and spelt == text.encode()):
        spelt = _spell(text)
    number = entry.get("id")
    if not isinstance(number, int):
        number = _id_in(text)
    logp = _number(entry.get("logprob"), reply)
    return Scored(text, spelt, number, logp)


def _spell(text: str) -> bytes | None:
    """Return the bytes of a token from its text, unless that shows no or half a character."""
    return None if not text or _LOST in text or _id_in(text) is not None else text.encode()


def _id_in(text: str) -> int | None:
    number = text.removeprefix(_BY_ID)
    return int(number) if number != text and number.isdigit() else None


def _lists(logprobs: Mapping[str, Any], reply: Reply) -> list[Position]:
    """Return the positions of completions' parallel lists."""
    tokens, values = logprobs["tokens"], logprobs.get("token_logprobs")
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    if not isinstance(values, list) or not len(tokens) == len(values) == len(tops):
        sizes = [len(each) if isinstance(each, list) else 0 for each in (tokens, values, tops)]
        raise _wrong(reply, f"holds {sizes[0]} tokens, {sizes[1]} scores, {sizes[2]} alternatives")
    found = []
    for text, value, top in zip(tokens, values, tops, strict=True):
        best = [_scored({"token": t, "logprob": v}, reply) for t, v in (top or {}).items()]
        best.sort(key=lambda scored: -scored.logp)  # an object has no order to keep
        found.append(Position(_scored({"token": text, "logprob": value}, reply), tuple(best)))
    return found


def spell(positions: Sequence[Position], reply: Reply) -> int:
    """Check that the scored tokens spell the answer; return how many of them belong to its text.

    Blanks at both ends may be missing from the text, and end tokens may follow it. A token that
    shows no certain bytes may stand for a few of the text's.

    Raises:
        EndpointError: they spell another text, or only part of it.
    """
    text = reply.text.strip().encode()
    at, gap, inside = 0, 0, 0
    for number, position in enumerate(positions):
        spelt = position.chosen.spelt
        if at == len(text):
            blank = spelt is not None and not spelt.strip()
            if not blank and reply.finish_reason != "stop":
                raise _wrong(reply, f"scores {len(positions)} tokens, but only {number} are text")
            continue
        inside = number + 1
        if spelt is None:
            gap += _PART
            continue
        piece = spelt.lstrip() if at == 0 else spelt
        found = text.find(piece, at, at + gap + len(piece))
        if found < 0 and piece.startswith(left := text[at:]):
            # The last one: blanks were cut off it, or a stop string within it.
            cut = reply.finish_reason == "stop" or not piece[len(left) :].strip()
            found = at if cut else -1
        if found < 0:
            raise _wrong(reply, f"scores another text: token {number + 1} is {spelt!r}")
        at, gap = min(found + len(piece), len(text)), 0
    if len(text) - at > gap:
        raise _wrong(reply, f"scores only {at} of the text's {len(text)} bytes")
    return inside


def of_prompt(reply: Reply, tokens: Sequence[int] | None) -> list[dict[int, float]] | None:
    """Return vLLM's scores of a prompt, by token id, from its second token on.

    Args:
        reply: to a completion with `prompt_logprobs`.
        tokens: the prompt as it was sent, if it was sent as ids.

    Returns:
        One mapping a token after the first, which holds at least that token; None where the answer
        has no such field.

    Raises:
        EndpointError: they cannot be true, or are of another text.
    """
    rows = reply.choices[0].get("prompt_logprobs")
    if not isinstance(rows, list):
        return None
    wanted = reply.used("prompt_tokens") if tokens is None else len(tokens)
    if wanted is not None and len(rows) != wanted:
        raise _wrong(reply, f"scores {len(rows)} tokens of a prompt of {wanted}")
    if not rows or rows[0] is not None:
        raise _wrong(reply, "scores the first token of a prompt, which nothing stands before")
    found = [_row(row, reply, number) for number, row in enumerate(rows[1:], 1)]
    for number, row in enumerate(found, 1):
        if tokens is not None and tokens[number] not in row:
            raise _wrong(reply, f"has no score for token {number} of the prompt, {tokens[number]}")
    return found


def _row(row: Any, reply: Reply, number: int) -> dict[int, float]:
    try:
        found = {int(token): _number(one["logprob"], reply) for token, one in row.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong(reply, f"has no scores for token {number} of the prompt") from error
    _require_probabilities(list(found.values()), reply, number)
    return found


def _number(value: Any, reply: Reply) -> float:
    """Return a log-probability."""
    if not isinstance(value, float | int) or math.isnan(value):
        raise _wrong(reply, f"holds {value!r} where a log-probability should stand")
    if value > _SLACK:
        raise _wrong(reply, f"holds a log-probability above 0, {value:.4g}")
    return -math.inf if value <= NEVER else min(float(value), 0.0)


def _require_probabilities(logps: Sequence[float], reply: Reply, number: int) -> None:
    mass = sum(math.exp(logp) for logp in logps)
    if mass > 1 + _SLACK:
        raise _wrong(reply, f"holds probabilities that add up to {mass:.4g} at token {number}")


def _wrong(reply: Reply, what: str) -> EndpointError:
    return EndpointError(
        f"the answer of {reply.entry.url} as {reply.entry.model!r}, on line {reply.line} of its "
        f"log, {what}; mend the server and delete that line to ask again, or ask for text alone.",
        reason=f"the answer {what}",
    )
