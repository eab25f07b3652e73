"""One attempt to ask a served model: an answer, a setback worth another attempt, or an error.

Worth another attempt are 408, 425, 429, 500, 502, 503, 504 and 529, time-outs, lost connections
and bodies that are not whole JSON. What a server says goes into messages with the key blotted out.
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from audit.errors import EndpointError

PASSING = frozenset((408, 425, 429, 500, 502, 503, 504, 529))
_LONGEST = 200  # characters of a server's own words in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer: status 200 and a JSON object."""

    text: str
    body: dict[str, Any]
    date: str | None
    request_id: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Setback:
    """Something that may pass.

    Attributes:
        what: for the message, should it not pass.
        status: of the answer, or None.
        wait: seconds the server asked to wait, or None.
        billed: whether the server may have done the work all the same.
    """

    what: str
    status: int | None = None
    wait: float | None = None
    billed: bool = False


class Wire:
    """The connection to one endpoint."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        key_env: str | None,
        timeout_seconds: float,
        connections: int,
        transport: httpx2.BaseTransport | None,
    ) -> None:
        self.url = url
        self._key = key
        self._key_env = key_env
        self._client = httpx2.Client(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, 30.0)),
            limits=httpx2.Limits(max_connections=connections),
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, method: str, path: str, body: dict[str, Any] | None) -> Answer | Setback:
        """Ask once.

        Raises:
            EndpointError: the server refuses, and would again.
        """
        began = time.perf_counter()
        try:
            response = self._client.request(method, f"{self.url}/{path}", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Setback(what=f"no connection: {self._clean(str(error))}")
        except httpx2.TimeoutException:
            return Setback(what="no answer in time", billed=True)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            what = self._clean(str(error)) or type(error).__name__
            return Setback(what=f"the connection was lost: {what}", billed=True)
        seconds = time.perf_counter() - began
        if response.status_code != httpx2.codes.OK:
            return self._refused(response, path)
        text = self._blot(response.content.decode("utf-8", errors="replace"))
        try:
            found = json.loads(text)
        except ValueError:
            what = f"{len(response.content):,} bytes that are not whole JSON"
            return Setback(what=what, status=response.status_code, billed=True)
        if not isinstance(found, dict):
            raise EndpointError(
                f"{self.url}/{path} answered with {type(found).__name__}, no object"
            )
        return Answer(
            text=text,
            body=found,
            date=response.headers.get("date"),
            request_id=response.headers.get("x-request-id"),
            seconds=seconds,
        )

    def _refused(self, response: httpx2.Response, path: str) -> Setback:
        status = response.status_code
        said = self._said(response)
        if status in PASSING:
            wait = _wait(response.headers.get("retry-after"))
            return Setback(what=f"status {status}{said}", status=status, wait=wait)
        where, reason = f"{self.url}/{path}", f"{status}{said}"
        if status in (401, 403):
            advice = (
                "set key_env to the name of an environment variable that holds its key"
                if self._key_env is None
                else f"check the key in the environment variable {self._key_env}"
            )
            raise EndpointError(f"{where} lets nobody in ({reason}); {advice}.", status, reason)
        if status == 404:
            raise EndpointError(
                f"{where} is not there, or serves no such model ({reason}); check url, which "
                "usually ends in /v1, and model.",
                status,
                reason,
            )
        raise EndpointError(f"{where} refuses the request ({reason}).", status, reason)

    def _said(self, response: httpx2.Response) -> str:
        """Return what the server says of a refusal, as the rest of a phrase."""
        text = response.content.decode("utf-8", errors="replace")
        try:
            found = json.loads(text)
        except ValueError:
            found = text
        for name in ("error", "detail", "message"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        said = self._clean(found if isinstance(found, str) else json.dumps(found))
        return f": {said}" if said else ""

    def _clean(self, text: str) -> str:
        """Return a server's words on one line, short, without the key."""
        line = " ".join(self._blot(text).split()).rstrip(".")
        return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."

    def _blot(self, text: str) -> str:
        return text if not self._key else text.replace(self._key, "[key]")


def _wait(header: str | None) -> float | None:
    """Return the seconds a `Retry-After` header asks for: a number, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
