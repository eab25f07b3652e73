"""Served models on 127.0.0.1, each with the quirks of the server it imitates, and faults on demand.

A tiny Llama answers `/v1/models`, `/v1/completions` and `/v1/chat/completions` in the dialect of
vLLM, SGLang, llama.cpp, `transformers serve` or OpenAI, as their sources stood in autumn 2026:

- openai: true bytes of tokens; at most 20 alternatives, 5 for completions; prompts are text.
- vllm: prompts may be token ids; `prompt_logprobs`; half a character is written as U+FFFD, and
  that is also its bytes; an end token counts as an entry; log-probabilities before temperature.
- sglang: no `prompt_logprobs`; `echo` scores the prompt; log-probabilities after temperature.
- llama.cpp: `echo` is ignored, so that only generated tokens are scored; entries carry token ids,
  and completions answer in the form of chat; unknown fields are ignored.
- transformers: 422 for unknown fields; logprobs and n are ignored; any temperature is 0 unless the
  model's own generation config samples; the model's id gets `@main`, and the list may be empty.
"""

import json
import math
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from audit.attest import digest
from distill.text.vocabulary import token_bytes
from tests.fakes.dialects import Behaviour, Refusal, respond
from tests.fakes.teachers import sentences, tiny_teacher

TINY = "tiny"
_ATTEMPTS = 50  # to take a port that was another server's a moment ago


def speaking_teacher(path: Path, steps: int = 150) -> Path:
    """Write a tiny Llama that has learnt `sentences`, so that it writes words; return `path`."""
    tiny_teacher(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer(sentences(900, seed=5), return_tensors="pt")["input_ids"][0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        starts = torch.randint(0, len(ids) - 33, (16,), generator=generator)
        batch = torch.stack([ids[start : start + 32] for start in starts.tolist()])
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, 4 * (1 - step / steps))
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return path


class TinyModel:
    """A loaded model and its tokenizer, for several servers; what it was asked is kept."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.spelt = token_bytes(self.tokenizer)
        self._said: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.inference_mode()
    def logp(self, ids: list[int]) -> torch.Tensor:
        """Return the log-probabilities `[S, V]` after each token."""
        key = tuple(ids)
        if key not in self._said:
            logits = self.model(torch.tensor([ids]), use_cache=False).logits[0]
            self._said[key] = logits.double().log_softmax(-1)
        return self._said[key]


class Fault:
    """What may go wrong with one request."""

    BUSY, BROKEN, AWAY = "429", "500", "503"
    CUT, HALF, RESET = "cut JSON", "half a body", "reset"
    NAN, SHORT, RENAMED, SLOW = "NaN", "short", "renamed", "slow"


class Server(ThreadingHTTPServer):
    """One served model.

    Attributes:
        plan: faults by the number of the POST request they befall, from 0.
        behaviour: what it does wrong all the time.
        serves: the id it may be asked for.
        name: the id it answers as.
        made: how often each request was worked on to the end, by digest of its body.
        delivered: how often its answer was then sent whole.
        posts: POST requests so far.
        die_at: number of the POST request at which it dies.
        pause: seconds a slow answer takes.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        model: TinyModel,
        dialect: str = "vllm",
        *,
        behaviour: tuple[str, ...] = (),
        plan: dict[int, str] | None = None,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self._listen()
        self.source = model
        self.tokenizer = model.tokenizer
        self.spelt = model.spelt
        self.logp = model.logp
        self.dialect = dialect
        self.behaviour = behaviour
        self.plan = plan or {}
        self.key = key
        self.serves = self.name = TINY
        self.posts = 0
        self.made: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.die_at: int | None = None
        self.pause = 1.0
        self.lock = threading.Lock()
        self.generator = torch.Generator().manual_seed(99)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        """Take the port, for which an end of a connection may have to be forgotten first."""
        for attempt in range(_ATTEMPTS):
            try:
                self.server_bind()
                break
            except OSError:
                if attempt + 1 == _ATTEMPTS:
                    self.server_close()
                    raise
                time.sleep(0.1)
        self.server_activate()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """What a config calls `url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        """Listen no longer."""
        self.shutdown()
        self.server_close()

    def __exit__(self, *error: object) -> None:
        """Stop at the end of a `with`."""
        self.stop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left."""

    def write(
        self, ids: list[int], body: dict[str, Any], sample: int
    ) -> list[tuple[int, torch.Tensor]]:
        """Return the tokens written after `ids`, each with the log-probabilities it came from."""
        temperature = float(body.get("temperature", 1.0))
        limit = int(body.get("max_tokens", body.get("max_completion_tokens", 16)))
        if Behaviour.GREEDY in self.behaviour or self.dialect == "transformers":
            temperature = 0.0
        if Behaviour.ENDLESS in self.behaviour:
            limit += 3
        generator = self.generator
        if body.get("seed") is not None and Behaviour.SEEDLESS not in self.behaviour:
            generator = torch.Generator().manual_seed(int(body["seed"]) + 1000 * sample)
        out: list[tuple[int, torch.Tensor]] = []
        while len(out) < limit:
            logp = self.logp([*ids, *(token for token, _ in out)])[-1]
            if temperature == 0:
                token, said = int(logp.argmax()), logp
            else:
                said = (logp / temperature).log_softmax(-1)
                with self.lock:
                    token = int(torch.multinomial(said.exp(), 1, generator=generator))
            if Behaviour.FROZEN in self.behaviour:
                frozen = torch.full_like(logp, -math.inf)
                frozen[int(logp.argmax())] = 0.0
                logp = frozen
            out.append((token, said if self.dialect == "sglang" else logp))
            if token == self.tokenizer.eos_token_id:
                break
        return out

    def text(self, token: int) -> str:
        """Return a token as the dialect writes it."""
        return str(self.tokenizer.decode([token]))

    def true_bytes(self, token: int) -> list[int]:
        """Return the bytes of a token."""
        return list(self.spelt[token] or b"")

    def hidden(self, token: int) -> bool:
        """Tell whether a token is left out of the text."""
        return token in self.tokenizer.all_special_ids


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """List the models."""
        rows = [] if self.server.dialect == "transformers" else [{"id": self.server.name}]
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": rows})
        else:
            self._send(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        """Answer, or befall a fault."""
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number, server.posts = server.posts, server.posts + 1
            server.bodies.append(body)
        if server.die_at is not None and number >= server.die_at:
            self._reset()
            threading.Thread(target=server.stop, daemon=True).start()
            return
        if server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
            said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
            self._send(401, {"error": {"message": said, "code": "invalid_api_key"}})
            return
        fault = server.plan.get(number)
        if fault in (Fault.BUSY, Fault.BROKEN, Fault.AWAY):
            headers = {"Retry-After": "0.05"} if fault == Fault.BUSY else {}
            self._send(int(fault), {"error": {"message": "try later"}}, headers)
        elif fault == Fault.RESET:
            self._reset()
        else:
            self._answer(body, fault)

    def _answer(self, body: dict[str, Any], fault: str | None) -> None:
        server = self.server
        try:
            chat = {"/v1/chat/completions": True, "/v1/completions": False}.get(self.path)
            if chat is None:
                raise Refusal(404, f"no {self.path}")
            found = respond(server, body, chat=chat)
        except Refusal as refusal:
            self._send(refusal.status, {"error": {"message": str(refusal)}})
            return
        with server.lock:
            server.made[digest(body)] += 1
        if fault == Fault.SLOW:
            threading.Event().wait(server.pause)
        if fault == Fault.RENAMED:
            server.name = "another"
            found["model"] = server.name
        if fault in (Fault.NAN, Fault.SHORT):
            found = _spoil(found, fault)
        cut = {Fault.CUT: "cut", Fault.HALF: "half"}.get(fault or "")
        self._send(200, found, cut=cut)
        if cut is None:
            with server.lock:
                server.delivered[digest(body)] += 1

    def _send(
        self,
        status: int,
        found: dict[str, Any],
        headers: dict[str, str] | None = None,
        cut: str | None = None,
    ) -> None:
        data = json.dumps(found).encode()
        sent = data[: len(data) // 2] if cut else data
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent if cut == "cut" else data)))
        self.send_header("x-request-id", f"request-{self.server.posts}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if cut == "half":
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection at once, so that the client sees it lost."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True


def _spoil(found: dict[str, Any], fault: str) -> dict[str, Any]:
    """Return an answer whose numbers are NaN, or whose lists of numbers are one too short."""
    choice = found["choices"][0]
    logprobs = choice.get("logprobs") or {}
    for rows in (logprobs.get("content"), choice.get("prompt_logprobs")):
        if rows and fault == Fault.SHORT:
            del rows[-1]
        elif rows:
            last = rows[-1]
            entries = [last, *last["top_logprobs"]] if "token" in last else list(last.values())
            for entry in entries:
                entry["logprob"] = math.nan
    if "tokens" in logprobs:
        if fault == Fault.SHORT:
            for name in ("tokens", "token_logprobs", "top_logprobs"):
                del logprobs[name][-1]
        else:
            logprobs["token_logprobs"][-1] = math.nan
            logprobs["top_logprobs"][-1] = dict.fromkeys(logprobs["top_logprobs"][-1], math.nan)
    return found
