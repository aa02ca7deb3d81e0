"""Event streams: many at once, and one across restarts of the API."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from sqlalchemy.orm import Session

from app.api.job_events import MAX_SEQ
from app.jobs import fencing, jobs
from app.store.db import make_engine
from app.store.models import Job
from bench.api.load import Line
from bench.api.servers import PATIENCE, Server

QUIET_SECONDS = 20.0
"""Longer than the interval between two keep-alive comments of an idle stream."""
SETTLE_SECONDS = 5.0
"""Longer than several polls of the API for each stream."""


def held(server: Server, ids: Sequence[str], number: int) -> tuple[int, int]:
    """Open streams on these jobs in turn; return the process's resident bytes before and with them."""
    before = server.resident_bytes()
    opened = []
    for place in range(number):
        line = Line(server.port)
        line.send(server.request(f"/v1/jobs/{ids[place % len(ids)]}/events", "Accept: text/event-stream"))
        opened.append(line)
    for line in opened:
        while b"event: queued" not in line.rest:
            line.rest += line.socket.recv(1 << 16)
    time.sleep(SETTLE_SECONDS)
    most = server.resident_bytes()
    for line in opened:
        line.close()
    return before, most


def tell(url: str, job_id: str, number: int, enough: threading.Event, written: list[int]) -> None:
    """Write events of a running job, as its worker does: `number` at least, until `enough`; append their seq to `written`."""
    engine = make_engine(url)
    with Session(engine, expire_on_commit=False) as session:
        job = session.get_one(Job, job_id)
        claim, first = fencing.Claim(job, job.fence), job.event_seq + 1
    while len(written) < number or not enough.is_set():
        with Session(engine) as session, session.begin():
            jobs.record_event(session, claim, "log", {"level": "info", "message": f"line {len(written)}"})
        written.append(first + len(written))
        time.sleep(0.05)
    engine.dispose()


@dataclass
class Listener:
    """Follows a job's stream and resumes it after the last event, as a browser's EventSource does."""

    server: Server
    job_id: str
    last: int = MAX_SEQ
    seen: list[int] = field(default_factory=list)
    taken_up: int = 0

    def follow(self) -> None:
        """Listen until the event `last` has come, which may be set meanwhile."""
        place = f"http://127.0.0.1:{self.server.port}/v1/jobs/{self.job_id}/events"
        headers = {"Authorization": f"Bearer {self.server.key}", "Accept": "text/event-stream"}
        while not self.seen or self.seen[-1] < self.last:
            if self.seen:
                headers["Last-Event-ID"] = str(self.seen[-1])
            try:
                with httpx.stream("GET", place, headers=headers, timeout=QUIET_SECONDS) as got:
                    self.taken_up += 1
                    self._read(got)
            except httpx.TransportError:
                time.sleep(0.1)

    def _read(self, answer: httpx.Response) -> None:
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
                continue
            if "id" in fields:  # an event is told by the empty line behind it, in whatever order its fields came
                json.loads(fields["data"])  # whole, or it was not delivered
                self.seen.append(int(fields["id"]))
                if self.seen[-1] >= self.last:
                    return
            fields = {}


def across_restarts(server: Server, job_id: str, number: int, restarts: int) -> tuple[list[int], Listener]:
    """Write events while the API is killed and restarted; return the events written, and the listener."""
    listener, enough, written = Listener(server, job_id), threading.Event(), list[int]()
    hears = threading.Thread(target=listener.follow, daemon=True)
    writes = threading.Thread(target=tell, args=(server.url, job_id, number, enough, written), daemon=True)
    hears.start()
    writes.start()
    for _ in range(restarts):
        time.sleep(2.0)
        server.kill()
        time.sleep(0.5)
        server.start("/healthz/live")
    enough.set()
    writes.join()
    listener.last = written[-1]
    hears.join(PATIENCE)
    return written, listener
