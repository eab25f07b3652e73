"""How each kind of server reads a request and writes an answer; see `endpoints`."""

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.fakes.endpoints import Server

UNKNOWN = ("prompt_logprobs", "top_k", "return_tokens_as_token_ids")  # to a strict server
MOST = {"vllm": 20, "openai": 20, "sglang": 100, "llama.cpp": 100}


class Behaviour:
    """What a server may do wrong all the time."""

    GREEDY = "temperature is ignored"
    SEEDLESS = "seed is ignored"
    DEAF = "the system message is dropped"
    ENDLESS = "max_tokens is ignored"
    STOPS = "a cut answer says stop"
    FROZEN = "scores are of temperature 0"
    SHIFTED = "prompt_logprobs are one position late"
    CHANCE = "prompt_logprobs are all alike"
    UNSORTED = "alternatives come in no order"
    NO_ECHO = "echo is refused"
    NO_USAGE = "no usage is stated"


class Refusal(Exception):
    """A request the server does not take."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def respond(server: "Server", body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """Return the answer to one request in the server's dialect.

    Raises:
        Refusal: it does not take the request.
    """
    strict = server.dialect in ("transformers", "openai")
    unknown = [name for name in UNKNOWN if name in body]
    if strict and unknown:
        raise Refusal(422, f"Unexpected fields in the request: {unknown}")
    if body["model"] != server.serves and server.dialect != "llama.cpp":
        raise Refusal(404, f"The model `{body['model']}` does not exist.")
    ids = _prompt(server, body, chat=chat)
    count = 1 if server.dialect == "transformers" else int(body.get("n", 1))
    written = [server.write(ids, body, sample) for sample in range(count)]
    choices = [_choice(server, body, ids, tokens, chat=chat) for tokens in written]
    for index, choice in enumerate(choices):
        choice["index"] = index
    name = f"{server.name}@main" if server.dialect == "transformers" else server.name
    found = {
        "id": f"answer-{server.posts}",
        "object": "chat.completion" if chat else "text_completion",
        "model": name,
        "system_fingerprint": f"{server.dialect}-1",
        "choices": choices,
    }
    if Behaviour.NO_USAGE not in server.behaviour:
        tokens_out = sum(len(tokens) for tokens in written)
        found["usage"] = {
            "prompt_tokens": len(ids),
            "completion_tokens": tokens_out,
            "total_tokens": len(ids) + tokens_out,
        }
    return found


def _prompt(server: "Server", body: dict[str, Any], *, chat: bool) -> list[int]:
    """Return the ids the model is to go on from."""
    if chat:
        messages = body["messages"]
        if Behaviour.DEAF in server.behaviour:
            messages = [message for message in messages if message["role"] != "system"]
        text = server.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return list(server.tokenizer(text)["input_ids"])
    prompt = body["prompt"]
    if isinstance(prompt, str):
        return list(server.tokenizer(prompt)["input_ids"])
    if server.dialect in ("transformers", "openai"):
        raise Refusal(400, "prompt must be a string.")
    return list(prompt)


def _choice(
    server: "Server",
    body: dict[str, Any],
    ids: list[int],
    written: list[tuple[int, torch.Tensor]],
    *,
    chat: bool,
) -> dict[str, Any]:
    """Return one choice, with the scores that were asked for and that the dialect gives."""
    kept = [token for token, _ in written if not server.hidden(token)]
    text = server.tokenizer.decode(kept)
    ended = written[-1][0] == server.tokenizer.eos_token_id
    stop = ended or Behaviour.STOPS in server.behaviour
    choice: dict[str, Any] = {"finish_reason": "stop" if stop else "length"}
    if not chat and body.get("echo") and server.dialect in ("vllm", "sglang"):
        text = server.tokenizer.decode(ids) + text
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    if server.dialect == "vllm" and body.get("prompt_logprobs") is not None and not chat:
        choice["prompt_logprobs"] = _prompt_logprobs(server, ids, body["prompt_logprobs"])
    if not chat and body.get("echo") and Behaviour.NO_ECHO in server.behaviour:
        raise Refusal(400, "Only no echo is supported")
    top = _alternatives(server, body, chat=chat)
    if top is None:
        return choice
    if server.dialect == "openai" and written and ended:
        written = written[:-1]
    if chat or server.dialect == "llama.cpp":
        choice["logprobs"] = {"content": [_entry(server, row, top) for row in written]}
    else:
        before: list[tuple[int, torch.Tensor | None]] = []
        if body.get("echo") and server.dialect in ("vllm", "sglang"):
            before = [(ids[0], None), *zip(ids[1:], server.logp(ids)[:-1], strict=True)]
        choice["logprobs"] = _legacy(server, [*before, *written], top, body)
    return choice


def _alternatives(server: "Server", body: dict[str, Any], *, chat: bool) -> int | None:
    """Return how many alternatives to give, or None for no scores at all."""
    if server.dialect == "transformers":
        return None
    if chat:
        top = int(body.get("top_logprobs", 0)) if body.get("logprobs") else None
    else:
        top = body.get("logprobs")
    most = 5 if server.dialect == "openai" and not chat else MOST[server.dialect]
    if top is not None and top > most:
        raise Refusal(400, f"Requested sample logprobs of {top}, which is greater than {most}")
    return top


def _best(logp: torch.Tensor, top: int, behaviour: tuple[str, ...]) -> list[tuple[int, float]]:
    values, tokens = logp.topk(top)
    rows = list(zip(tokens.tolist(), [max(v, -9999.0) for v in values.tolist()], strict=True))
    return rows[::-1] if Behaviour.UNSORTED in behaviour else rows


def _entry(server: "Server", row: tuple[int, torch.Tensor], top: int) -> dict[str, Any]:
    """Return one token as chat answers have it."""

    def one(token: int, value: float) -> dict[str, Any]:
        text = server.text(token)
        true = server.dialect in ("openai", "llama.cpp")
        found = {"token": text, "logprob": value}
        found["bytes"] = server.true_bytes(token) if true else list(text.encode())
        return found | ({"id": token} if server.dialect == "llama.cpp" else {})

    token, logp = row
    chosen = max(float(logp[token]), -9999.0)
    best = _best(logp, top, server.behaviour)
    return one(token, chosen) | {"top_logprobs": [one(t, v) for t, v in best]}


def _legacy(
    server: "Server",
    rows: list[tuple[int, torch.Tensor | None]],
    top: int,
    body: dict[str, Any],
) -> dict[str, Any]:
    """Return tokens as completions have them: alternatives keyed by text, the chosen one too."""

    def name(token: int) -> str:
        by_id = body.get("return_tokens_as_token_ids")
        return f"token_id:{token}" if by_id else server.text(token)

    chosen: list[float | None] = []
    best: list[dict[str, float] | None] = []
    for token, logp in rows:
        if logp is None:
            chosen.append(None)
            best.append(None)
            continue
        chosen.append(max(float(logp[token]), -9999.0))
        found = {name(t): v for t, v in _best(logp, top, server.behaviour)}
        best.append(found | {name(token): chosen[-1]})
    names = [name(token) for token, _ in rows]
    return {"tokens": names, "token_logprobs": chosen, "top_logprobs": best}


def _prompt_logprobs(
    server: "Server", ids: list[int], top: int
) -> list[dict[str, dict[str, Any]] | None]:
    """Return vLLM's scores of the prompt: nothing for its first token, then the likeliest, by id.

    The token that stands there is among them whether or not it is likely.
    """
    if top > MOST["vllm"]:
        raise Refusal(400, f"Requested prompt logprobs of {top}, which is greater than 20")
    logp = server.logp(ids)
    if Behaviour.FROZEN in server.behaviour:
        frozen = torch.full_like(logp, -9999.0)
        logp = frozen.scatter(1, logp.argmax(-1, keepdim=True), 0.0)
    if Behaviour.CHANCE in server.behaviour:
        logp = torch.full_like(logp, -math.log(logp.shape[1]))
    if Behaviour.SHIFTED in server.behaviour:
        logp = torch.cat([logp[:1], logp[:-1]])
    rows: list[dict[str, dict[str, Any]] | None] = [None]
    for token, row in zip(ids[1:], logp[:-1], strict=True):
        ranked = _best(row, top, ())
        found = {str(t): _scored(server, t, v, rank) for rank, (t, v) in enumerate(ranked, 1)}
        value = float(row[token])
        found[str(token)] = _scored(server, token, value, int((row > value).sum()) + 1)
        rows.append(found)
    return rows


def _scored(server: "Server", token: int, value: float, rank: int) -> dict[str, Any]:
    return {"logprob": value, "rank": rank, "decoded_token": server.text(token)}
