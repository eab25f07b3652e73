"""A server that is a list of answers, without a network, and an endpoint that asks it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from audit.endpoint import Endpoint, EndpointConfig, question

URL = "http://127.0.0.1:9/v1"


CONFIG = EndpointConfig(url=URL, model="m", concurrency=1, retries=3)


def body(text: str = "yes", **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return {"model": "m-1", "choices": [choice], "usage": usage, **changes}


def ok(text: str = "yes", **changes: Any) -> httpx2.Response:
    headers = {"date": "Sun, 22 Nov 2026 09:00:00 GMT", "x-request-id": "r-7"}
    return httpx2.Response(200, json=body(text, **changes), headers=headers)


class Script:
    """A server that answers from a list, the last one for ever, and counts what it was asked."""

    def __init__(self, *answers: httpx2.Response | Exception | Callable[[], httpx2.Response]):
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self.lock:
            self.asked.append(json.loads(request.content) if request.content else {})
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer()
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)


class Waits(list[float]):
    """Waits that take no time and are written down."""

    def __call__(self, stop: threading.Event, seconds: float) -> bool:
        if seconds > 0:
            self.append(seconds)
        return stop.is_set()


def opened(
    log: Path, script: Script, config: EndpointConfig = CONFIG, waits: Waits | None = None
) -> Endpoint:
    transport = httpx2.MockTransport(script)
    return Endpoint(config, log, transport=transport, wait=Waits() if waits is None else waits)


def ask(text: str = "who?", config: EndpointConfig = CONFIG, sample: int = 0) -> Any:
    return question(config, text, max_tokens=5, fields={"temperature": 0.0}, sample=sample)
