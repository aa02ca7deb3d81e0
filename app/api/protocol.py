"""HTTP/1.1 of one connection: uvicorn's, with timeouts for slow callers and stricter framing.

All headers of a request must arrive within `header_seconds` of its first byte. A body or a response without any progress for
`idle_seconds` ends its connection; a slow one goes on. uvicorn itself closes idle connections between requests.
"""

import asyncio
import http
import re
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.raw_responses import response_parts
from app.core.errors import MalformedRequest, Problem, RequestTimeout
from app.core.settings import get_settings
from app.ops.metrics import refused

BARE_LF = re.compile(rb"(?<!\r)\n")
ENDED_WITH = "ended_with"
"""Key of a request's state: the status that the connection answered instead of the application, for counting and logging."""
_CAN_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)


class StrictConnection(h11.Connection):
    """h11's connection, without two forms that proxies may parse differently, which makes request smuggling possible."""

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError also for a bare LF in headers, and for two lengths of one body."""
        if self.their_state is not h11.IDLE:
            return super().next_event()
        before = self.trailing_data[0]
        event = super().next_event()
        if isinstance(event, h11.Request):
            head = before[: len(before) - len(self.trailing_data[0])]
            if BARE_LF.search(head):
                raise h11.RemoteProtocolError("a line of the headers ends with a bare LF")
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names:
                if b"content-length" in names:
                    raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
                if event.http_version < b"1.1":
                    raise h11.RemoteProtocolError("HTTP/1.0 knows no Transfer-Encoding")
        return event


class BoundedProtocol(H11Protocol):
    """A connection that ends if its caller keeps it waiting."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        most = self.config.h11_max_incomplete_event_size
        self.conn = StrictConnection(h11.SERVER, *(() if most is None else (most,)))
        settings = get_settings()
        self.header_seconds, self.idle_seconds = settings.header_seconds, settings.idle_seconds
        self.clock: asyncio.TimerHandle | None = None
        self.headers_since: float | None = None  #: start of the headers that are still incomplete
        self.moved = self.drained = 0.0  #: when bytes last arrived, and last left
        self.unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self.headers_since = self.moved = self.drained = self.loop.time()
        self._check_timeouts()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self.clock is not None:
            self.clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and note their arrival."""
        self.moved = self.loop.time()
        if self.headers_since is None:
            self.headers_since = self.moved
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self.headers_since = None

    def on_response_complete(self) -> None:
        """Continue with the next request; if some of it has arrived, its time starts now."""
        super().on_response_complete()
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        self.headers_since = self.loop.time() if begun else None

    def send_400_response(self, msg: str) -> None:
        """Reject what is not HTTP, or is framed in two ways. uvicorn calls this while it handles the error."""
        error = sys.exc_info()[1]
        refused.labels("malformed").inc()
        self._end(MalformedRequest(str(error or msg)))

    def _check_timeouts(self) -> None:
        """End the connection if it has waited too long; otherwise check again when that may be."""
        now = self.loop.time()
        left = self.transport.get_write_buffer_size()
        if not left or left != self.unsent:
            self.unsent, self.drained = left, now
        elif now - self.drained >= self.idle_seconds:
            refused.labels("answer").inc()
            self.transport.abort()
            return
        again = self.header_seconds
        if not self.transport.is_closing() and (waits := self._expected_input(now)):
            what, since, seconds = waits
            if now - since >= seconds:
                refused.labels(what).inc()
                self._end(RequestTimeout(f"the rest of the {what} did not arrive within {seconds:g} s"))
            else:
                again = min(again, since + seconds - now)
        self.clock = self.loop.call_later(again, self._check_timeouts)

    def _expected_input(self, now: float) -> tuple[str, float, float] | None:
        """Return what the caller must send, since when, and how long it has; None if it is our turn."""
        if self.conn.their_state is h11.IDLE:
            return None if self.headers_since is None else ("headers", self.headers_since, self.header_seconds)
        if self.conn.their_state is not h11.SEND_BODY:
            return None
        if self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue):
            self.moved = now  # we have not read what arrived, or the caller waits for a 100 Continue
        return "body", self.moved, self.idle_seconds

    def _end(self, problem: Problem) -> None:
        """Answer with a problem if no response has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.conn.our_state in _CAN_ANSWER:
                self.cycle.scope.setdefault("state", {})[ENDED_WITH] = problem.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in _CAN_ANSWER and not self.transport.is_closing():
            headers, body = response_parts(problem)
            start = h11.Response(status_code=problem.status, headers=headers, reason=http.HTTPStatus(problem.status).phrase)
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
