"""The checks of a preflight that look at log-probabilities: whether they come and can be true.

Scores of a prompt are held to those of the same token when it was written, which tells apart what
shapes alone do not: scores one position late, of another temperature, or of chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audit import scores
from audit.checks import Check, Desk, refused
from audit.endpoint import Reply
from audit.errors import EndpointError
from audit.question import scoring, top_fields

OPENINGS = (
    "The old mill stands by the",
    "In the morning she opened the door and",
    "One, two, three,",
    "Water flows down the",
    "He said that he would come back in the",
    "A key turns in the",
)
_TEXT = "The river runs past the old mill, and behind the mill the road climbs into the hills."
# Nats: two steps of bfloat16 for logits between 16 and 32, in which a prompt read at once and a
# token read alone may differ.
_GAP = 0.3


def top_logprobs(desk: Desk, top: int) -> Check:
    """See how many alternatives come, and whether they can be true."""
    name = "top_logprobs"
    refusal: EndpointError | None = None
    for asked in dict.fromkeys((top, 5, 1)):
        if asked > top:
            continue
        reply = desk.ask({"temperature": 1.0, **top_fields(desk.config, asked)})
        if isinstance(reply, EndpointError):
            refusal = refusal or reply
            continue
        if refusal is not None:
            seen = f"{top} are refused, {asked} are given: set top: {asked} ({refusal.reason})"
            return Check(name, "unsupported", seen)
        return _judge_top(name, reply, asked)
    assert refusal is not None
    return refused(name, refusal)


def _judge_top(name: str, reply: Reply, asked: int) -> Check:
    try:
        found = scores.generated(reply)
        if found:
            scores.spell(found, reply)
    except EndpointError as error:
        return Check(name, "failed", error.reason)
    if found == []:
        return Check(name, "unsupported", "the answer was empty, so nothing was seen")
    if found is None or not any(position.top for position in found):
        return Check(name, "unsupported", "asked for, and left out without a word")
    wrong = _improbable([[one.logp for one in position.top] for position in found], asked)
    if any(list(p.top) != sorted(p.top, key=lambda scored: -scored.logp) for p in found):
        wrong = "the alternatives are not sorted by probability"
    if wrong is not None:
        return Check(name, "failed", wrong)
    alike = sum(position.chosen.text in [s.text for s in position.top] for position in found)
    spelt = sum(position.chosen.spelt is not None for position in found)
    named = sum(position.chosen.id is not None for position in found)
    seen = (
        f"{asked} at each of {len(found)} places; the written token is among them at {alike}, "
        f"spelt in bytes at {spelt}, named by id at {named}"
    )
    return Check(name, "ok", seen)


def _improbable(rows: Sequence[Sequence[float]], top: int) -> str | None:
    """Say what no model would say of a text, or return None."""
    if min(len(row) for row in rows) < top:
        return f"{top} were asked for, fewer came at a place"
    if all(max(row) > -1e-6 for row in rows):
        return "one token has all the probability: scored at temperature 0"
    if max(max(row) for row in rows) - min(min(row) for row in rows) < 1e-6:
        return "all scores are alike, as by chance"
    return None


def without_temperature(desk: Desk, scored: Check) -> Check:
    """See whether the first place's log-probabilities stay as they are at temperature 0.5."""
    name = "logprobs without temperature"
    if scored.outcome != "ok":
        return Check(name, "unsupported", "there are no usable top_logprobs")
    tables: list[dict[str, float]] = []
    for temperature in (1.0, 0.5):
        fields = {"temperature": temperature, **top_fields(desk.config, 5)}
        reply = desk.ask(fields, max_tokens=1)
        if isinstance(reply, EndpointError):
            return refused(name, reply)
        found = scores.generated(reply)
        tables.append({one.text: one.logp for one in found[0].top} if found else {})
    common = [text for text in tables[0] if text in tables[1]]
    gap = max((abs(tables[0][text] - tables[1][text]) for text in common), default=math.inf)
    seen = f"temperature 0.5 moves them by up to {gap:.2g} nats"
    return Check(name, "ok" if gap <= _GAP else "failed", seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ahead:
    """The likeliest token after an opening, its log-probability, and the opening's tokens."""

    opening: str
    text: str
    logp: float
    tokens: int


def written_ahead(desk: Desk) -> list[Ahead]:
    """Return what is written after some openings; nothing where completions give no scores."""
    return [found for opening in OPENINGS if (found := _ahead(desk, opening)) is not None]


def _ahead(desk: Desk, opening: str) -> Ahead | None:
    """Let a token be written, as a standard to hold scores of the prompt to."""
    reply = desk.complete(opening, {"temperature": 1.0, "logprobs": 1})
    tokens = None if isinstance(reply, EndpointError) else reply.used("prompt_tokens")
    if isinstance(reply, EndpointError) or tokens is None:
        return None
    try:
        found = scores.generated(reply)
    except EndpointError:
        return None
    best = [one for position in found or [] for one in position.top if one.spelt]
    if not best:
        return None
    likeliest = max(best, key=lambda one: one.logp)
    text = (likeliest.spelt or b"").decode("utf-8", errors="replace")
    return Ahead(opening=opening, text=text, logp=likeliest.logp, tokens=tokens)


def echo(desk: Desk, ahead: Sequence[Ahead]) -> Check:
    """See whether `echo` scores the prompt, all of it and at the right places; nothing here does.

    llama.cpp has scored the generated token alone (its issue 27174), and llama-cpp-python, where
    no begin token stands before the prompt, every token one position late.
    """
    name = "echo"
    gaps: list[float] = []
    for one in ahead or [Ahead(opening=_TEXT, text="", logp=math.nan, tokens=0)]:
        fields = {"temperature": 1.0, "echo": True, "logprobs": 1}
        reply = desk.complete(one.opening + one.text, fields)
        if isinstance(reply, EndpointError):
            return refused(name, reply)
        logprobs = reply.choices[0].get("logprobs") or {}
        values = logprobs.get("token_logprobs", logprobs.get("content"))
        if not isinstance(values, list) or not values:
            return Check(name, "unsupported", "no scores come with it")
        if len(values) == 1 < (reply.used("prompt_tokens") or 2):
            seen = "only the generated token is scored: the prompt's likelihood would be chance"
            return Check(name, "failed", seen)
        # The last of the prompt, after which one generated token stands, or none.
        for token, value in list(zip(logprobs.get("tokens", []), values, strict=False))[-2:]:
            if token == one.text and isinstance(value, float):
                gaps.append(abs(value - one.logp))
                break
    return _compare(name, gaps)


def prompt_logprobs(desk: Desk, tokens: Sequence[int] | None, top: int) -> Check:
    """See whether the prompt is scored as vLLM does it, by token ids where there are some."""
    name = "prompt_logprobs"
    reply = desk.send(scoring(desk.config, _TEXT if tokens is None else tokens, top))
    if isinstance(reply, EndpointError):
        return refused(name, reply)
    try:
        found = scores.of_prompt(reply, tokens)
    except EndpointError as error:
        return Check(name, "failed", error.reason)
    if not found:
        return Check(name, "unsupported", "asked for, and left out without a word")
    wrong = _improbable([list(row.values()) for row in found], top)
    if wrong is not None:
        return Check(name, "failed", wrong)
    sent = "a text" if tokens is None else "token ids"
    return Check(name, "ok", f"{len(found) + 1} tokens of {sent}, {top} at each but the first")


def agree(desk: Desk, ahead: Sequence[Ahead]) -> Check:
    """Hold the score of a prompt's last token to what it had when it was written."""
    name = "prompt_logprobs agree"
    gaps: list[float] = []
    for one in ahead:
        reply = desk.send(scoring(desk.config, one.opening + one.text, 1))
        if isinstance(reply, EndpointError):
            return refused(name, reply)
        try:
            found = scores.of_prompt(reply, None)
        except EndpointError as error:
            return Check(name, "failed", error.reason)
        if found is not None and len(found) == one.tokens:  # it was cut into the same tokens
            gaps.append(min(abs(logp - one.logp) for logp in found[-1].values()))
    return _compare(name, gaps)


def _compare(name: str, gaps: Sequence[float]) -> Check:
    if not gaps:
        return Check(name, "unsupported", "no written token could be scored again")
    seen = f"{len(gaps)} tokens score as when they were written, to {max(gaps):.2g} nats"
    if max(gaps) <= _GAP:
        return Check(name, "ok", seen)
    seen = f"a token scores {max(gaps):.2g} nats from what it had when it was written"
    return Check(name, "failed", f"{seen}: another position, temperature or model")
