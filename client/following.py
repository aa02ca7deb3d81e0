"""Following a job, without a socket: where the reader of its events is, and when to look at it again."""

import json
import time
from typing import Any

import httpx

from client.errors import BadAnswer, Problem, WaitedTooLong
from client.types import Event, Job, Try, parse
from client.wire import AGAIN, pause

ASK = 25.0
"""Seconds that the service may hold an answer back until something has changed."""


class Following:
    """A reader of `text/event-stream`: fields a line, an event a block, comments begin with a colon.

    It knows the last event that it has seen, so a stream that broke is taken up right behind it, and nothing is told twice.
    """

    def __init__(self, job_id: str, after: int = 0) -> None:
        self.job_id, self.after = job_id, after
        self.broken = 0
        self._fields: dict[str, str] = {}

    @property
    def path(self) -> str:
        """Where the stream is."""
        return f"/v1/jobs/{self.job_id}/events"

    @property
    def headers(self) -> dict[str, str]:
        """What asks for the stream from where we are."""
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self.after)}

    def open(self, response: httpx.Response) -> bool:
        """Say whether an answer is a stream to read; False: to be asked for again. Raises Problem; its body is read then."""
        self._fields = {}
        if not response.is_success and response.status_code not in AGAIN:
            raise Problem.of(response)
        return response.is_success

    def feed(self, line: str) -> Event | None:
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
            return self.told(parse(Event, {**body, "type": fields.get("event", "message"), "seq": int(fields["id"])}))
        except (ValueError, TypeError) as error:
            raise BadAnswer(f"{self.path} streams something that is no event: {fields['data']:.100}") from error

    def told(self, event: Event) -> Event | None:
        """Note that an event was seen; None where it was before."""
        if event.seq <= self.after:
            return None
        self.broken, self.after = 0, event.seq
        return event

    def again(self) -> float:
        """Say how long to pause before the stream is asked for again."""
        self.broken += 1
        return pause(self.broken)


class Waiting:
    """Looks at a job or a question until it has ended or the caller's time is over."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._asked = 0.0

    def begin(self) -> float:
        """Say for how many seconds the service may hold the first answer back."""
        self._asked = time.monotonic()
        return min(ASK, max(1.0, self._left()))

    def _left(self) -> float:
        return ASK if self._deadline is None else self._deadline - time.monotonic()

    def ask(self, what: Job | Try) -> float:
        """Say for how many seconds the service may hold the next answer back. Raises WaitedTooLong."""
        if self._left() <= 0:
            raise WaitedTooLong(f"{what.id} is still {what.state} after {self.timeout:g} s")
        return self.begin()

    def rest(self, *, changed: bool) -> float:
        """Say how long to pause then: a proxy may drop `Prefer`, and without a change and without a wait we would run hot."""
        return 0.0 if changed or time.monotonic() - self._asked > 0.5 else 1.0
