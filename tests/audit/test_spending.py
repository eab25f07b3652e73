"""A budget over the whole log is kept, by one thread and by many, and so is the pace."""

import time
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from audit.endpoint import Endpoint, question
from audit.errors import BudgetError, EndpointError
from audit.response_log import ResponseLog
from tests.fakes.wire import CONFIG, Script, Waits, ask, ok, opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ({"max_requests": 3}, "max_requests: 3"),
        # A request is booked at 27 tokens in and 5 out, and settled at 10 and 4.
        ({"max_tokens": 3 * 14 + 20}, "max_tokens: 62"),
        ({"max_cost": 80e-6, "price_input": 1.0, "price_output": 2.0}, "max_cost: 8e-05"),
    ],
)
def test_a_budget_stops_before_it_is_exceeded_and_says_what_was_spent(log, limit, named):
    config = replace(CONFIG, **limit)
    script = Script(ok())
    with opened(log, script, config) as endpoint, pytest.raises(BudgetError) as caught:
        endpoint.ask([ask(str(i), config) for i in range(10)])
    assert len(script.asked) == 3
    assert f"({named}): spent were 3 requests, 30 tokens in, 12 out" in str(caught.value)
    assert f"3 answers are kept in {log}, so raise the limit" in str(caught.value)
    assert caught.value.exit_code == 4
    with opened(log, script, config) as endpoint, pytest.raises(BudgetError):
        endpoint.ask([ask(str(i), config) for i in range(10)])  # resuming spends nothing twice
    assert len(script.asked) == 3


def test_a_budget_is_kept_by_many_threads(log):
    config = replace(CONFIG, max_requests=10, concurrency=8)
    script = Script(ok())
    with opened(log, script, config) as endpoint, pytest.raises(BudgetError):
        endpoint.ask([ask(str(i)) for i in range(40)])
    assert len(script.asked) == 10
    held = ResponseLog(log)
    assert len(held) == 10
    held.close()


def test_threads_wait_for_bookings_that_turn_out_smaller(log):
    # Booked at 27 + 5 tokens each, used at 14: two in flight would exceed 60, one after the other
    # four fit.
    config = replace(CONFIG, max_tokens=3 * 14 + 40, concurrency=4)
    with opened(log, Script(ok()), config) as endpoint:
        endpoint.ask([ask(str(i)) for i in range(4)])
        assert endpoint.spent.tokens == 4 * 14


def test_nobody_who_waited_for_a_booking_asks_after_a_refusal(log):
    config = replace(CONFIG, max_tokens=40, concurrency=4)  # one request at a time
    asked = []

    def server(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        time.sleep(0.05)  # the others come to wait
        return httpx2.Response(400, json={"error": "no"})

    with (
        Endpoint(config, log, transport=httpx2.MockTransport(server)) as endpoint,
        pytest.raises(EndpointError),
    ):
        endpoint.ask([ask(str(i)) for i in range(8)])
    assert len(asked) == 1


def test_refused_attempts_cost_nothing_and_lost_ones_may_have(log):
    config = replace(CONFIG, max_requests=3)
    passing = [httpx2.Response(429), httpx2.ConnectError("no"), httpx2.ReadTimeout("slow")]
    script = Script(*passing, ok())
    with opened(log, script, config) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
        assert (endpoint.spent.requests, endpoint.spent.lost) == (3, 1)
        with pytest.raises(BudgetError, match=r"3 requests \(1 without a whole answer\)"):
            endpoint.ask([ask("c")])


def test_an_answer_without_usage_counts_as_the_most_it_can_be(log):
    with opened(log, Script(ok(usage=None))) as endpoint:
        endpoint.ask([ask()])
        spent = endpoint.spent
    assert (spent.requests, spent.output_tokens) == (1, 5)
    assert spent.input_tokens > 10


def test_token_ids_are_counted_exactly():
    config = replace(CONFIG, api="completions")
    most = question(config, [5, 6, 7], max_tokens=9, fields={"n": 2}).most()
    assert (most.input_tokens, most.output_tokens) == (3, 18)


def test_requests_keep_the_stated_pace(log):
    waits = Waits()
    config = replace(CONFIG, requests_per_minute=30.0)
    with opened(log, Script(ok()), config, waits) as endpoint:
        endpoint.ask([ask(str(i)) for i in range(4)])
    assert [round(wait) for wait in waits] == [2, 4, 6]  # none was slept, so each is longer
