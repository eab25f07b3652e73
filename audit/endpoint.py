"""A served model behind an OpenAI-compatible endpoint, asked once and never twice.

Every answer goes whole into an append-only log under a digest of its question (`response_log.py`),
so a run that was stopped goes on without asking again what it has. Passing failures are retried
with growing, jittered pauses (`transport.py`); pace and budget are kept (`spending.py`); an answer
by another model than the earlier ones stops the run. The key comes from an environment variable
and appears nowhere.
"""

import json
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from audit.errors import BudgetError, ConfigError, EndpointError
from audit.question import EndpointConfig, Reply, Request, Tell, question, used
from audit.response_log import Entry, ResponseLog
from audit.spending import Meter, Pacer, Spending
from audit.transport import Answer, Setback, Wire

__all__ = ["Endpoint", "EndpointConfig", "Reply", "Request", "Tell", "question"]

# Seconds. The first pause doubles with each attempt, up to the longest; a longer one that a server
# asks for is cut, so that a quota of days ends in an error and not in a wait.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_ASKED = 0.5, 30.0, 120.0


Wait = Callable[[threading.Event, float], bool]


class Endpoint:
    """One served model and the log of what it said. A context manager."""

    def __init__(
        self,
        config: EndpointConfig,
        log: Path,
        *,
        transport: httpx2.BaseTransport | None = None,
        wait: Wait = threading.Event.wait,
    ) -> None:
        """Open the log; nothing is sent yet.

        Args:
            config: where and how.
            log: the response log; begun where it is missing.
            transport: stands in for the network in tests.
            wait: sleeps for seconds, or until the event; returns whether the event is set.

        Raises:
            ConfigError: the variable that `key_env` names is not set.
            InputError: the log is damaged, or another process writes to it.
        """
        self.config = config
        key = _key(config)
        self.log = ResponseLog(log)
        self._wire = Wire(
            config.base,
            key=key,
            key_env=config.key_env,
            timeout_seconds=config.timeout_seconds,
            connections=config.concurrency,
            transport=transport,
        )
        self._wait = wait
        self._pacer = Pacer(config.requests_per_minute)
        self._models = list(config.accepted_models)
        self._models_lock = threading.Lock()
        self._meter = Meter(config.limits, self._read_log())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and log."""
        self._wire.close()
        self.log.close()

    @property
    def spent(self) -> Spending:
        """What the log and this process have cost so far."""
        return self._meter.spent

    def listed(self, retries: int | None = None) -> list[str]:
        """Return the ids of the models the server lists, by GET /models, which costs nothing.

        Args:
            retries: instead of the config's.

        Raises:
            EndpointError: it refuses, or does not answer.
        """
        stop = threading.Event()
        retries = self.config.retries if retries is None else retries
        attempt = 0
        while isinstance(found := self._wire.send("GET", "models", None), Setback):
            self._rest(found, attempt, retries, stop)
            attempt += 1
        rows = found.body.get("data")
        names = [row.get("id") for row in rows or [] if isinstance(row, dict)]
        return [name for name in names if isinstance(name, str)]

    def ask(
        self,
        requests: Sequence[Request],
        tell: Tell | None = None,
        *,
        retries: int | None = None,
    ) -> list[Reply]:
        """Return the answers in order; those in the log come from there and cost nothing.

        On any error, and on Ctrl-C, nothing new is sent; answers in flight are waited for and
        logged.

        Args:
            requests: equal ones are asked once.
            tell: told how many of how many are answered, in this thread.
            retries: instead of the config's.

        Raises:
            EndpointError: the server refuses, is gone, or answers as another model.
            BudgetError: a limit is reached.
        """
        keys = [request.key(self.config.base) for request in requests]
        missing = self._missing(requests)
        replies = {key: self._recall(key) for key in keys if key not in missing}
        done, total = len(replies), len(replies) + len(missing)
        if tell is not None:
            tell(done, total)
        if missing:
            retries = self.config.retries if retries is None else retries
            self._ask_all(missing, retries, lambda new: tell(done + new, total) if tell else None)
        replies |= {key: self._recall(key) for key in missing}
        return [replies[key] for key in keys]

    def _missing(self, requests: Sequence[Request]) -> dict[str, Request]:
        by_key = {request.key(self.config.base): request for request in requests}
        return {key: request for key, request in by_key.items() if key not in self.log}

    def _ask_all(
        self, missing: Mapping[str, Request], retries: int, tell: Callable[[int], None]
    ) -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(self.config.concurrency, "endpoint") as pool:
            futures: list[Future[None]] = [
                pool.submit(self._ask_one, key, request, retries, stop)
                for key, request in missing.items()
            ]
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    future.result()
                    tell(count)
            except BaseException:
                stop.set()
                for future in futures:
                    future.cancel()
                raise

    def _ask_one(self, key: str, request: Request, retries: int, stop: threading.Event) -> None:
        """Ask until there is an answer in the log, or leave when `stop` is set."""
        attempt = 0
        try:
            while not self._wait(stop, self._pacer.turn()):
                setback = self._attempt(key, request, attempt, stop)
                if setback is None:
                    return
                self._rest(setback, attempt, retries, stop)
                attempt += 1
        except BaseException:
            stop.set()  # here, because this thread takes up the next question at once
            raise

    def _attempt(
        self, key: str, request: Request, attempt: int, stop: threading.Event
    ) -> Setback | None:
        """Ask once within the budget; return None when the answer is logged, or on `stop`."""
        most, cost = request.most(), Spending()
        limit = self._meter.book(most)
        if limit is not None:
            raise self._over_budget(limit)
        try:
            if stop.is_set():  # while it waited for its booking
                return None
            found = self._wire.send("POST", request.path, request.body)
            if isinstance(found, Answer):
                found = _with_choice(found)
            if isinstance(found, Setback):
                cost = replace(most, lost=1) if found.billed else cost
                return found
            entry = self._entry(key, request, found, attempt + 1)
            cost = used(entry, most)
            self.log.append(entry)
        except BaseException:
            stop.set()  # before the booking is given up, for which others may wait
            raise
        finally:
            self._meter.settle(most, cost)
        self._check_model(entry.model, self.log.line(key))
        return None

    def _rest(self, setback: Setback, attempt: int, retries: int, stop: threading.Event) -> None:
        """Pause before the next attempt, all threads where the server asks for it; or give up."""
        if attempt >= retries:
            raise EndpointError(
                f"{self.config.base} gave no answer in {attempt + 1} attempts (last: "
                f"{setback.what}); {self._kept()} run the same command again when it is back.",
                setback.status,
                setback.what,
            )
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
        pause = random.uniform(longest / 2, longest)
        if setback.wait is not None:
            asked = min(setback.wait, _LONGEST_ASKED)
            self._pacer.hold(asked)
            pause = max(pause, asked)
        self._wait(stop, pause)

    def _recall(self, key: str) -> Reply:
        """Return the logged answer to a question, if the right model gave it."""
        entry, line = self.log.find(key), self.log.line(key)
        self._check_model(entry.model, line)
        return Reply(body=json.loads(entry.body), line=line, entry=entry)

    def _check_model(self, model: str | None, line: int) -> None:
        if model is None:
            return
        with self._models_lock:
            if not self._models:
                self._models.append(model)
            if model in self._models:
                return
            known = " or ".join(repr(name) for name in self._models)
        raise EndpointError(
            f"{self.config.base} answered as {model!r} ({self.log.path}, line {line}), but was "
            f"{known} before; if that is the same model, list both under accepted_models, "
            "otherwise delete that line, or give the new one a log of its own."
        )

    def _entry(self, key: str, request: Request, answer: Answer, attempts: int) -> Entry:
        body = answer.body
        usage = body.get("usage")
        return Entry(
            key=key,
            url=self.config.base,
            asked=request.asked(),
            model=_text(body.get("model")),
            fingerprint=_text(body.get("system_fingerprint")),
            request_id=answer.request_id,
            usage=usage if isinstance(usage, dict) else None,
            date=answer.date,
            received=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=answer.seconds,
            attempts=attempts,
            body=answer.text,
        )

    def _read_log(self) -> Spending:
        """Return what the log cost, and take the model's id from its first answer."""
        spent = Spending()
        for entry in self.log:
            asked = Request(**entry.asked)
            spent += used(entry, asked.most())
            ours = entry.url == self.config.base and asked.body.get("model") == self.config.model
            if ours and entry.model is not None and not self._models:
                self._models.append(entry.model)
        return spent

    def _over_budget(self, limit: str) -> BudgetError:
        return BudgetError(
            f"the budget for {self.config.base} ends here ({limit}): spent were "
            f"{self._meter.limits.describe(self.spent)}; {self._kept()} raise the limit and run "
            "the same command again."
        )

    def _kept(self) -> str:
        return f"{len(self.log)} answers are kept in {self.log.path}, so"


def _key(config: EndpointConfig) -> str | None:
    if config.key_env is None:
        return None
    key = os.environ.get(config.key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {config.key_env}, which key_env names, is not set; set it "
            f"to the key of {config.base}."
        )
    return key


def _with_choice(answer: Answer) -> Answer | Setback:
    """Return an answer that answers; some routers put an error into a body of status 200."""
    choices = answer.body.get("choices")
    if isinstance(choices, list) and choices and all(isinstance(c, dict) for c in choices):
        return answer
    error = answer.body.get("error")
    said = f": {' '.join(json.dumps(error).split())[:200]}" if error else ""
    return Setback(what=f"an answer without a choice{said}", status=200, billed=True)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
