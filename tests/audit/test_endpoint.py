"""A served model is asked once and never twice, whatever goes wrong on the way."""

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest

from audit.endpoint import Endpoint
from audit.errors import ConfigError, EndpointError
from tests.fakes.wire import CONFIG, URL, Script, Waits, ask, body, ok, opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


SECRET = "sk-very-secret-1234"


def test_an_answer_is_logged_whole_with_who_gave_it(log):
    with opened(log, Script(ok(system_fingerprint="f"))) as endpoint:
        (reply,) = endpoint.ask([ask()])
    (line,) = log.read_text().splitlines()
    row = json.loads(line)
    assert json.loads(row["body"]) == body(system_fingerprint="f")
    assert (row["model"], row["fingerprint"], row["request_id"]) == ("m-1", "f", "r-7")
    assert row["date"] == "Sun, 22 Nov 2026 09:00:00 GMT"
    assert (row["usage"]["prompt_tokens"], row["attempts"]) == (10, 1)
    assert row["asked"]["body"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "who?"}],
        "max_tokens": 5,
        "temperature": 0.0,
    }
    assert (reply.text, reply.finish_reason, reply.used("completion_tokens")) == ("yes", "stop", 4)


def test_what_is_in_the_log_is_not_asked_again(log):
    first, second = Script(ok()), Script(ok("no"))
    with opened(log, first) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
    with opened(log, second) as endpoint:
        replies = endpoint.ask([ask("b"), ask("c"), ask("a")])
    assert [reply.text for reply in replies] == ["yes", "no", "yes"]
    assert len(first.asked) == 2
    assert [row["messages"][0]["content"] for row in second.asked] == ["c"]


def test_equal_questions_are_asked_once_and_samples_apart(log):
    script = Script(ok())
    with opened(log, script) as endpoint:
        replies = endpoint.ask([ask("a"), ask("a"), ask("a", sample=1)])
    assert len(script.asked) == 2
    assert [reply.line for reply in replies] == [1, 1, 2]


@pytest.mark.parametrize(
    "setback",
    [
        *[
            httpx2.Response(status, json={"error": {"message": "later"}})
            for status in (408, 425, 429, 500, 502, 503, 504, 529)
        ],
        httpx2.ReadTimeout("slow"),
        httpx2.ConnectError("refused"),
        httpx2.RemoteProtocolError("peer closed connection"),
        httpx2.ReadError("reset"),
        httpx2.Response(200, content=b'{"choices": [{"mess'),
        httpx2.Response(200, json={"error": {"code": 502, "message": "upstream"}}),
        httpx2.Response(200, json={"choices": []}),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_after_growing_pauses(log, setback):
    script, waits = Script(setback, setback, ok()), Waits()
    with opened(log, script, waits=waits) as endpoint:
        (reply,) = endpoint.ask([ask()])
    assert reply.text == "yes"
    assert reply.entry.attempts == 3
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


def test_after_the_last_attempt_one_sentence_says_so_and_what_is_kept(log):
    script = Script(ok(), httpx2.Response(503, json={"error": {"message": "loading\nmodel."}}))
    with opened(log, script) as endpoint:
        endpoint.ask([ask("a")])
        with pytest.raises(EndpointError) as caught:
            endpoint.ask([ask("b")])
    assert len(script.asked) == 1 + 4
    assert str(caught.value) == (
        f"{URL} gave no answer in 4 attempts (last: status 503: loading model); 1 answers are "
        f"kept in {log}, so run the same command again when it is back."
    )
    assert caught.value.status == 503


def in_forty_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [("7", 7, 7), ("0.5", 0.25, 0.5), ("86400", 120, 120), (None, 30, 40), ("soon", 0.25, 0.5)],
)
def test_a_server_that_asks_to_wait_is_waited_for_within_reason(log, asked, low, high):
    waits = Waits()
    busy = httpx2.Response(429, headers={"retry-after": asked or in_forty_seconds()})
    with opened(log, Script(busy, ok()), waits=waits) as endpoint:
        endpoint.ask([ask()])
    assert low <= waits[0] <= high


def test_all_threads_wait_when_one_was_asked_to(log):
    config = replace(CONFIG, concurrency=2)
    waits = Waits()
    busy = httpx2.Response(429, headers={"retry-after": "9"})
    with opened(log, Script(busy, ok()), config, waits) as endpoint:
        endpoint.ask([ask("a"), ask("b"), ask("c")])
    assert sum(wait > 8 for wait in waits) >= 2  # the one that was told, and whoever came next


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [
        (400, "bad logprobs", r"refuses the request \(400: bad logprobs\)\.$"),
        (401, f"wrong key {SECRET}", r"\(401: wrong key \[key\]\); check the key in .* MY_KEY\.$"),
        (403, "no", r"check the key in the environment variable MY_KEY"),
        (404, "no model m", r"\(404: no model m\); check url, which usually ends in /v1, and mod"),
        (422, "Unexpected", r"refuses the request \(422: Unexpected\)"),
        (302, "", r"refuses the request \(302\)"),
    ],
)
def test_a_refusal_is_final_and_one_sentence(log, monkeypatch, status, said, advice):
    monkeypatch.setenv("MY_KEY", SECRET)
    script = Script(httpx2.Response(status, json={"error": {"message": said}} if said else None))
    with (
        opened(log, script, replace(CONFIG, key_env="MY_KEY")) as endpoint,
        pytest.raises(EndpointError, match=advice) as caught,
    ):
        endpoint.ask([ask("a"), ask("b")])
    assert len(script.asked) == 1
    assert caught.value.status == status
    assert SECRET not in str(caught.value)


def test_without_a_key_a_401_says_where_to_name_one(log):
    script = Script(httpx2.Response(401, json={"error": "missing"}))
    with opened(log, script) as endpoint, pytest.raises(EndpointError, match="set key_env to the"):
        endpoint.ask([ask()])


def test_the_key_goes_into_the_header_and_nowhere_else(log, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET + "\n")
    seen = []

    def server(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["authorization"])
        return ok(f"your key is {SECRET}")

    config = replace(CONFIG, key_env="MY_KEY")
    with Endpoint(config, log, transport=httpx2.MockTransport(server)) as endpoint:
        (reply,) = endpoint.ask([ask()])
    assert seen == [f"Bearer {SECRET}"]
    assert reply.text == "your key is [key]"
    assert SECRET not in log.read_text() + repr(config) + repr(reply)


def test_a_missing_key_is_named_by_its_variable(log, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="variable MY_KEY, which key_env names, is not set"):
        Endpoint(replace(CONFIG, key_env="MY_KEY"), log)
    assert not log.exists()


def test_a_model_that_answers_under_another_name_stops_the_run(log):
    script = Script(ok(), ok(model="m-2"), ok())
    with opened(log, script) as endpoint, pytest.raises(EndpointError) as caught:
        endpoint.ask([ask("a"), ask("b"), ask("c"), ask("d")])
    assert str(caught.value).startswith(
        f"{URL} answered as 'm-2' ({log}, line 2), but was 'm-1' before; if that is the same "
    )
    assert len(script.asked) == 2  # nothing more was paid for
    with opened(log, script) as endpoint:
        assert endpoint.ask([ask("a")])[0].text == "yes"
        with pytest.raises(EndpointError, match="line 2"):
            endpoint.ask([ask("e"), ask("b")])
    assert len(script.asked) == 2  # not even the new one
    both = replace(CONFIG, accepted_models=("m-1", "m-2"))
    with opened(log, script, both) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
    assert len(script.asked) == 2


def test_a_changed_model_is_noticed_across_runs(log):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a")])
    changed = Script(ok(model="m-2"))
    with opened(log, changed) as endpoint, pytest.raises(EndpointError, match="was 'm-1' before"):
        endpoint.ask([ask("b")])


def test_answers_keep_the_order_of_the_questions_and_as_many_are_in_flight_as_stated(log):
    flying, most, lock = 0, 0, threading.Lock()

    def server(request: httpx2.Request) -> httpx2.Response:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        text = json.loads(request.content)["messages"][0]["content"]
        time.sleep(0.02 if int(text) % 2 else 0.05)
        with lock:
            flying -= 1
        return ok(text)

    told: list[tuple[int, int]] = []
    config = replace(CONFIG, concurrency=3)
    with Endpoint(config, log, transport=httpx2.MockTransport(server)) as endpoint:
        texts = [str(i) for i in range(9)]
        endpoint.ask([ask("3")])
        replies = endpoint.ask([ask(t) for t in texts], lambda *at: told.append(at))
    assert [reply.text for reply in replies] == texts
    assert most == 3
    assert told == [(i, 9) for i in range(1, 10)]


def test_an_interrupt_keeps_the_answers_in_flight_and_starts_nothing_new(log):
    started, release = threading.Barrier(4), threading.Event()

    def server(request: httpx2.Request) -> httpx2.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        if text != "0":
            started.wait(10)
            release.wait(10)
        return ok(text)

    def tell(done: int, total: int) -> None:
        if done:
            started.wait(10)  # three are in flight
            threading.Timer(0.05, release.set).start()
            raise KeyboardInterrupt

    config = replace(CONFIG, concurrency=3)
    with (
        Endpoint(config, log, transport=httpx2.MockTransport(server)) as endpoint,
        pytest.raises(KeyboardInterrupt),
    ):
        endpoint.ask([ask(str(i)) for i in range(20)], tell)
    script = Script(ok())
    with opened(log, script) as endpoint:
        assert len(endpoint.log) == 4
        endpoint.ask([ask(str(i)) for i in range(20)])
    assert len(script.asked) == 16


def test_listed_models_are_those_with_an_id(log):
    rows = {"data": [{"id": "a"}, {"id": "b"}, {}, "c"]}
    script = Script(httpx2.Response(503), httpx2.Response(200, json=rows))
    with opened(log, script) as endpoint:
        assert endpoint.listed() == ["a", "b"]
        assert endpoint.spent.requests == 0
