"""Follows a job, without a socket: reads its events, and times the requests that wait for a change."""

import json
import time
from typing import Any

import httpx

from client.core.protocol import RETRIED_STATUSES, EventStream, Pause, Peer, address_of, pause
from client.device_types import Profile
from client.errors import BadAnswer, Problem, WaitedTooLong
from client.types import Event, Job, Try, parse

REMEDIES: dict[type, str] = {
    Try: "A worker that checks uploads answers it: see with `lathe workers` whether one is there, and ask again.",
    Profile: "Its device measures it later: look again with `lathe profiles`; see with `lathe device ls` whether it is there.",
}
"""What to do if the caller's time is over before this has ended; of a job as `WaitedTooLong` says."""
ASK = 25.0
"""Seconds that the service may hold an answer back until something has changed."""


class EventReader:
    """Parses `text/event-stream`: fields a line, an event a block, comments begin with a colon.

    It keeps the seq of the last event, so a stream that broke is resumed right behind it, and no event is yielded twice.
    """

    def __init__(self, job_id: str, after: int = 0) -> None:
        self.path, self.after = f"/v1/jobs/{job_id}/events", after
        self.broken = 0
        self._fields: dict[str, str] = {}

    def stream(self, peer: Peer) -> EventStream:
        """Return the step that reads the stream from here on."""
        # The service sends a comment every few seconds; a silence longer than the limit is a dead connection.
        headers = {**peer.authorization, "Accept": "text/event-stream", "Last-Event-ID": str(self.after)}
        options = {"method": "GET", "url": address_of(peer.url, self.path), "headers": headers, "timeout": peer.limit()}
        return EventStream(options, self._open, self._feed)

    def _open(self, response: httpx.Response) -> bool:
        """Return whether an answer is a stream to read; if not, it is asked for again. Raises Problem."""
        self._fields = {}
        if not response.is_success and response.status_code not in RETRIED_STATUSES:
            raise Problem.of(response)
        return response.is_success

    def _feed(self, line: str) -> Event | None:
        """Take in a line; return the event that it ends, if it ends a new one. Raises BadAnswer."""
        if line:
            name, _, value = line.partition(":")
            if name:
                value = value.removeprefix(" ")
                joined = name == "data" and "data" in self._fields
                self._fields[name] = f"{self._fields[name]}\n{value}" if joined else value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields or not fields.get("id", "").isdigit() or int(fields["id"]) <= self.after:
            return None
        try:
            body: dict[str, Any] = json.loads(fields["data"])
            event = parse(Event, {**body, "type": fields.get("event", "message"), "seq": int(fields["id"])})
        except (ValueError, TypeError) as error:
            raise BadAnswer(f"{self.path} streams something that is no event: {fields['data']:.100}") from error
        self.broken, self.after = 0, event.seq
        return event

    def again(self) -> Pause:
        """Return the pause before the stream is asked for again."""
        self.broken += 1
        return Pause(pause(self.broken))


class LongPoll:
    """Times the requests for a job or a prediction until it has ended or the caller's time is over."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._asked = 0.0

    def begin(self) -> float:
        """Return for how many seconds the service may hold the first answer back."""
        self._asked = time.monotonic()
        return min(ASK, max(1.0, self._left()))

    def _left(self) -> float:
        return ASK if self._deadline is None else self._deadline - time.monotonic()

    def ask(self, what: Job | Try | Profile) -> float:
        """Return for how many seconds the service may hold the next answer back. Raises WaitedTooLong."""
        if self._left() <= 0:
            cause = f"{what.id} is still {what.state} after {self.timeout:g} s"
            raise WaitedTooLong(cause, remedy=REMEDIES.get(type(what)))
        return self.begin()

    def rest(self, *, changed: bool) -> Pause:
        """Return the pause then: a proxy may drop `Prefer`, and without a change and without a wait we would run hot."""
        return Pause(0.0 if changed or time.monotonic() - self._asked > 0.5 else 1.0)
