"""What asking a served model may cost: a pace in requests a minute, and a budget over the log.

The budget counts everything that is in the log, in whichever run it was asked, so that resuming
does not spend it twice. A request is booked at the most it can cost before it is sent and settled
at what the answer says it used.
"""

import threading
import time
from dataclasses import dataclass, field

MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """Requests, tokens in, tokens out; and of the requests, those that may have been billed.

    Attributes:
        lost: requests that were sent and whose answer never came whole.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    lost: int = 0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            lost=self.lost + other.lost,
        )

    def __sub__(self, other: "Spending") -> "Spending":
        return Spending(
            requests=self.requests - other.requests,
            input_tokens=self.input_tokens - other.input_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
            lost=self.lost - other.lost,
        )

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What may be spent; None is no limit, or a price nobody stated.

    Attributes:
        price_input: money for a million tokens in.
        price_output: money for a million tokens out.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_input: float | None = None
    price_output: float | None = None

    def cost(self, spent: Spending) -> float | None:
        """Return what it cost, or None where a price is not known."""
        if self.price_input is None or self.price_output is None:
            return None
        return (
            spent.input_tokens * self.price_input + spent.output_tokens * self.price_output
        ) / MILLION

    def exceeded(self, spent: Spending) -> str | None:
        """Return the limit that is exceeded, as it stands in a config, or None."""
        cost = self.cost(spent)
        if self.max_requests is not None and spent.requests > self.max_requests:
            return f"max_requests: {self.max_requests}"
        if self.max_tokens is not None and spent.tokens > self.max_tokens:
            return f"max_tokens: {self.max_tokens}"
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            return f"max_cost: {self.max_cost}"
        return None

    def describe(self, spent: Spending) -> str:
        """Return what was spent as a phrase."""
        cost = self.cost(spent)
        money = "" if cost is None else f", cost {cost:.4g}"
        lost = f" ({spent.lost} without a whole answer)" if spent.lost else ""
        return (
            f"{spent.requests:,} requests{lost}, {spent.input_tokens:,} tokens in, "
            f"{spent.output_tokens:,} out{money}"
        )


@dataclass(slots=True)
class Meter:
    """Counts what is spent and in flight; shared by threads."""

    limits: Limits
    spent: Spending
    in_flight: Spending = Spending()
    _turn: threading.Condition = field(default_factory=threading.Condition)

    def book(self, most: Spending) -> str | None:
        """Set aside the most a request can cost; waits while others' bookings are in the way.

        Returns:
            None when it is booked; else the limit it would exceed with nothing else in flight.
        """
        with self._turn:
            while limit := self.limits.exceeded(self.spent + self.in_flight + most):
                if self.in_flight.requests == 0:
                    return limit
                self._turn.wait()
            self.in_flight += most
            return None

    def settle(self, booked: Spending, used: Spending) -> None:
        """Replace a booking by what was used."""
        with self._turn:
            self.in_flight -= booked
            self.spent += used
            self._turn.notify_all()


class Pacer:
    """Says how long to wait before the next request; shared by threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._every = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Take the next place in the queue; return the seconds until it comes."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._every
            return start - now

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long: the server asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
