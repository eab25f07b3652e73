"""What is asked of a served model, and what comes back: configuration, requests, replies.

Plain data; `endpoint.py` sends it. A request body is what OpenAI's chat or completions interface
documents, with what a server adds to it (vLLM, SGLang, llama.cpp) where a config names it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as strict_dataclass

from audit.attest import canonical_bytes
from audit.response_log import Entry, key_of
from audit.spending import Limits, Spending

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Route = Literal["chat/completions", "completions"]
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
Tell = Callable[[int, int], None]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@strict_dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class EndpointConfig:
    """Where a model is served, and what asking it may cost.

    Attributes:
        url: up to and including `/v1`.
        model: the id to ask for.
        api: whether text is asked of `/chat/completions` or `/completions`.
        key_env: the name of the environment variable that holds the key; never the key.
        system: a system message before every chat prompt.
        accepted_models: ids an answer may give itself; where empty, that of the first answer.
        timeout_seconds: for one attempt.
        retries: further attempts after a passing failure.
        concurrency: requests in flight at once.
        max_requests: of the whole log, like the two that follow.
        max_tokens: in and out.
        max_cost: in the currency of the prices.
        price_input: for a million tokens in.
        price_output: for a million tokens out.
        limit_field: what the server calls the length limit of an answer.
        extra: further fields of every request body.
    """

    url: str
    model: str
    api: Literal["chat", "completions"] = "chat"
    key_env: str | None = None
    system: str | None = None
    accepted_models: tuple[str, ...] = ()
    timeout_seconds: PositiveFloat = 120.0
    retries: Annotated[int, Field(ge=0)] = 6
    concurrency: Positive = 4
    requests_per_minute: PositiveFloat | None = None
    max_requests: Positive | None = None
    max_tokens: Positive | None = None
    max_cost: PositiveFloat | None = None
    price_input: Price | None = None
    price_output: Price | None = None
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Said without the values, which may hold what someone took for the place of a key.
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url should look like https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url holds credentials or a query; name the key's variable in key_env")
        if self.key_env is not None and not _VARIABLE.fullmatch(self.key_env):
            raise ValueError("key_env is no name of an environment variable; it holds no key")
        if self.max_cost is not None and None in (self.price_input, self.price_output):
            raise ValueError("max_cost needs price_input and price_output")
        if self.system is not None and self.api == "completions":
            raise ValueError("system needs api: chat; plain completions have no system message")

    @property
    def base(self) -> str:
        """The url without a slash at its end."""
        return self.url.rstrip("/")

    def lasting(self) -> "EndpointConfig":
        """Return it without what may change between two calls that share a log.

        Budget, pace, the name of the key's variable and accepted ids are as if never set: a limit
        that is raised changes no answer.
        """
        return EndpointConfig(
            url=self.url,
            model=self.model,
            api=self.api,
            system=self.system,
            price_input=self.price_input,
            price_output=self.price_output,
            limit_field=self.limit_field,
            extra=self.extra,
        )

    @property
    def limits(self) -> Limits:
        """The budget and the prices."""
        return Limits(
            max_requests=self.max_requests,
            max_tokens=self.max_tokens,
            max_cost=self.max_cost,
            price_input=self.price_input,
            price_output=self.price_output,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question, and which of several samples of its answer is meant."""

    path: Route
    body: dict[str, Any]
    sample: int = 0

    def asked(self) -> dict[str, Any]:
        """Return it as it stands in the log."""
        return {"path": self.path, "body": self.body, "sample": self.sample}

    def key(self, base: str) -> str:
        """Return what the answer of the endpoint at `base` is filed under."""
        return key_of(base, self.asked())

    def most(self) -> Spending:
        """Return the most it is expected to cost: the prompt by its length, and a full answer.

        A text is taken to have 3 bytes a token, which most have more of, and 16 tokens of template.
        """
        prompt = self.body.get("prompt", self.body.get("messages"))
        if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
            tokens = len(prompt)
        else:
            tokens = len(canonical_bytes(prompt)) // 3 + 16
        answer = self.body.get("max_tokens", self.body.get("max_completion_tokens", 0))
        answer *= self.body.get("n", 1)
        return Spending(requests=1, input_tokens=tokens, output_tokens=answer)


def question(
    config: EndpointConfig,
    prompt: Prompt,
    *,
    max_tokens: int,
    fields: Mapping[str, Any],
    sample: int = 0,
) -> Request:
    """Return the request that puts `prompt` the way `config` says.

    Args:
        config: the endpoint's.
        prompt: a text; for chat also messages; for completions also token ids.
        max_tokens: of the answer.
        fields: further fields of the body, such as temperature, seed, logprobs.
        sample: counts answers to the same question.
    """
    body: dict[str, Any] = {"model": config.model}
    path: Route = "completions"
    if config.api == "chat":
        path = "chat/completions"
        messages = [{"role": "system", "content": config.system}] if config.system else []
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        body["messages"] = [*messages, *turns]
    else:
        body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
    body |= {config.limit_field: max_tokens, **fields, **config.extra}
    return Request(path=path, body=body, sample=sample)


def top_fields(config: EndpointConfig, top: int) -> dict[str, Any]:
    """Return the fields that ask for the `top` likeliest tokens at each place of an answer."""
    if config.api == "chat":
        return {"logprobs": True, "top_logprobs": top}
    return {"logprobs": top}


def scoring(config: EndpointConfig, prompt: str | Sequence[int], top: int) -> Request:
    """Return the request that asks vLLM for the scores of a prompt.

    One token has to be written. Temperature 1, because some servers divide by it first.
    """
    body = {"model": config.model, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
    fields = {config.limit_field: 1, "temperature": 1.0, "prompt_logprobs": top}
    return Request(path="completions", body={**body, **fields, **config.extra})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer, from the server or from the log.

    Attributes:
        body: the JSON object as the server sent it, with a choice; a number in it may be NaN.
        line: where it stands in the log, from 1.
        entry: everything the log knows of it.
    """

    body: dict[str, Any]
    line: int
    entry: Entry

    @property
    def choices(self) -> list[dict[str, Any]]:
        """All choices; most requests ask for one."""
        found: list[dict[str, Any]] = self.body["choices"]
        return found

    @property
    def text(self) -> str:
        """What the model wrote; empty where it says nothing, or only calls tools."""
        return written(self.choices[0])

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, in the server's word."""
        reason = self.choices[0].get("finish_reason")
        return reason if isinstance(reason, str) else None

    def used(self, name: Literal["prompt_tokens", "completion_tokens"]) -> int | None:
        """Return a count of the answer's `usage`, or None where it states none."""
        count = (self.entry.usage or {}).get(name)
        return count if isinstance(count, int) else None


def written(choice: Mapping[str, Any]) -> str:
    """Return the text of one choice, of either interface."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    return content if isinstance(content, str) else ""


def used(entry: Entry, most: Spending) -> Spending:
    """Return what an answer says it used; the most it can have used where it does not say."""
    usage = entry.usage or {}
    found = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    bounds = (most.input_tokens, most.output_tokens)
    tokens_in, tokens_out = (
        count if isinstance(count, int) else bound
        for count, bound in zip(found, bounds, strict=True)
    )
    return Spending(requests=1, input_tokens=tokens_in, output_tokens=tokens_out)
