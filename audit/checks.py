"""The checks of a preflight that look at text: who answers, and which settings it heeds.

Each takes what was answered, or asks some small questions itself, and returns one row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from audit.endpoint import Endpoint, Reply, Request, question
from audit.errors import EndpointError
from audit.question import written

Outcome = Literal["ok", "failed", "unsupported"]

# What is asked of a chat, and what a plain completion goes on from, which an instruction may end.
_QUESTION = "Describe a river in one sentence."
_OPENING = "In the morning she opened the door and"
_COUNTING = "Count from one to fifty in words: one, two, three,"
WORDS = 16
_SYSTEM = " ".join(["Answer in plain and simple words, kindly and at no great length."] * 5)
_RETRIES = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: what was looked at, how it came out, and what was seen."""

    name: str
    outcome: Outcome
    seen: str


class Desk:
    """Asks; a refusal is an answer here, and a server's error is tried again only briefly."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.config = endpoint.config
        self.prompt = _QUESTION if endpoint.config.api == "chat" else _OPENING

    def ask(
        self, fields: Mapping[str, Any], sample: int = 0, max_tokens: int = WORDS
    ) -> Reply | EndpointError:
        """Put the one question the way the config says."""
        return self.send(
            question(self.config, self.prompt, max_tokens=max_tokens, fields=fields, sample=sample)
        )

    def complete(self, prompt: str, fields: Mapping[str, Any]) -> Reply | EndpointError:
        """Let one token be written after a plain text, whatever interface the config names."""
        body = {"model": self.config.model, "prompt": prompt, self.config.limit_field: 1}
        return self.send(Request(path="completions", body={**body, **fields, **self.config.extra}))

    def send(self, request: Request) -> Reply | EndpointError:
        """Return the answer or the refusal."""
        try:
            return self.endpoint.ask([request], retries=min(self.config.retries, _RETRIES))[0]
        except EndpointError as error:
            if error.status is None:
                raise
            return error


def refused(name: str, error: EndpointError) -> Check:
    """Return the row of a feature that the server refuses in so many words."""
    return Check(name, "unsupported", error.reason)


def listed(endpoint: Endpoint) -> Check:
    """See whether the server lists the model."""
    name = "model listed"
    try:
        names = endpoint.listed(min(endpoint.config.retries, _RETRIES))
    except EndpointError as error:
        return refused(name, error)
    if not names:
        return Check(name, "unsupported", "the server lists no models")
    outcome: Outcome = "ok" if endpoint.config.model in names else "failed"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Check(name, outcome, f"it lists {', '.join(names[:3])}{more}")


def answer(first: Reply) -> Check:
    """See whether anything is written."""
    if first.text.strip():
        return Check("answer", "ok", f"{len(first.text)} characters, {first.entry.seconds:.2f} s")
    return Check("answer", "failed", f"no text (finish_reason {first.finish_reason!r})")


def model(first: Reply, endpoint: Endpoint) -> Check:
    """See who answers: the id asked for, one made from it (a date or a revision), or another."""
    asked, said = endpoint.config.model, first.entry.model
    if said is None:
        return Check("model", "unsupported", "the answer names no model")
    same = said.startswith(asked) or said in endpoint.config.accepted_models
    return Check("model", "ok" if same else "failed", f"asked for {asked!r}, answered as {said!r}")


def deterministic(greedy: Sequence[Reply | EndpointError]) -> Check:
    """See whether temperature 0 gives one answer."""
    texts = {reply.text for reply in greedy if isinstance(reply, Reply)}
    seen = f"{len(texts)} different answers in {len(greedy)} at temperature 0"
    return Check("deterministic", "ok" if len(texts) == 1 else "failed", seen)


def temperature(desk: Desk, greedy: Reply) -> Check:
    """See whether temperature 1 ever leaves the likeliest answer."""
    drawn = [desk.ask({"temperature": 1.0}, sample) for sample in range(4)]
    texts = []
    for reply in drawn:
        if isinstance(reply, EndpointError):
            return refused("temperature", reply)
        texts.append(reply.text)
    if set(texts) == {greedy.text}:
        return Check("temperature", "failed", "4 answers at temperature 1 are that of 0")
    seen = f"{len(set(texts))} different answers in 4 at temperature 1"
    return Check("temperature", "ok" if len(set(texts)) > 1 else "failed", seen)


def seed(desk: Desk, varied: Check) -> Check:
    """See whether a seed fixes the answer."""
    if varied.outcome != "ok":
        return Check("seed", "unsupported", "answers do not vary, so a seed changes nothing")
    fields = {"temperature": 1.0, "seed": 7}
    first, second = (desk.ask(fields, sample) for sample in range(2))
    for reply in (first, second):
        if isinstance(reply, EndpointError):
            return refused("seed", reply)
    assert isinstance(first, Reply) and isinstance(second, Reply)
    if first.text == second.text:
        return Check("seed", "ok", "the same seed gave the same answer twice")
    return Check("seed", "failed", "the same seed gave two answers")


def max_tokens(desk: Desk) -> Check:
    """See whether an answer ends at its limit, and whether it says that it was cut there."""
    name, limit = "max_tokens", 5
    fields = {"temperature": 0.0}
    reply = desk.send(question(desk.config, _COUNTING, max_tokens=limit, fields=fields))
    if isinstance(reply, EndpointError):
        return refused(name, reply)
    used, reason = reply.used("completion_tokens"), reply.finish_reason
    if used is None:
        return Check(name, "unsupported", f"no usage is stated, finish_reason {reason!r}")
    seen = f"{used} tokens of at most {limit}, finish_reason {reason!r}"
    right = reason == "length" if used == limit else used < limit
    return Check(name, "ok" if right else "failed", seen)


def system_message(desk: Desk, plain: Reply) -> Check:
    """See by the prompt's length whether a long system message is read."""
    name = "system message"
    if desk.config.api != "chat":
        return Check(name, "ok", "plain completions have none")
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": desk.prompt}]
    body = {"model": desk.config.model, "messages": turns, desk.config.limit_field: WORDS}
    request = Request(path="chat/completions", body={**body, "temperature": 0.0})
    reply = desk.send(request)
    if isinstance(reply, EndpointError):
        return refused(name, reply)
    short, long = plain.used("prompt_tokens"), reply.used("prompt_tokens")
    if short is None or long is None:
        if reply.text != plain.text:
            return Check(name, "ok", "it changes the answer")
        return Check(name, "unsupported", "no usage is stated, and the answer stays the same")
    words = len(_SYSTEM.split())
    own = 0 if desk.config.system is None else len(desk.config.system.split())
    kept = long - short >= (words - own) // 2 if words > 2 * own else long != short
    seen = f"{words} words of it bring {long - short} tokens"
    return Check(name, "ok" if kept else "failed", seen)


def several(desk: Desk) -> Check:
    """See whether one request may ask for two answers; nothing here does."""
    reply = desk.ask({"temperature": 1.0, "n": 2})
    if isinstance(reply, EndpointError):
        return refused("n", reply)
    found = len(reply.choices)
    if found == 1:
        return Check("n", "unsupported", "n = 2 gave one answer")
    same = written(reply.choices[0]) == written(reply.choices[1])
    seen = f"n = 2 gave {found} answers{', all the same' if same else ''}"
    return Check("n", "ok" if found == 2 else "failed", seen)
