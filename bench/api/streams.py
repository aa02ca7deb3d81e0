"""Event streams: many at once, and one that goes on across restarts of the API."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from sqlalchemy.orm import Session

from app import jobs
from app.db import make_engine
from app.models import Job
from bench.api.house import Server
from bench.api.load import Line

SETTLE_SECONDS = 5.0
"""Longer than a poll of the API's own, so that every stream has been looked after a few times."""


def held(server: Server, ids: Sequence[str], number: int) -> tuple[int, int]:
    """Open so many streams on these jobs, in turn; return the bytes that the process holds before and with them."""
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


def tell(url: str, job_id: str, number: int, pause: float = 0.0) -> None:
    """Write so many events of a running job, as its worker does."""
    engine = make_engine(url)
    with Session(engine, expire_on_commit=False) as session:
        job = session.get_one(Job, job_id)
        claim = jobs.Claim(job, job.fence)
    for place in range(number):
        with Session(engine) as session, session.begin():
            jobs.record(session, claim, "log", {"level": "info", "message": f"line {place}"})
        time.sleep(pause)
    engine.dispose()


@dataclass
class Listener:
    """Follows a job's stream, and takes it up again after the last event that it has: what a browser's EventSource does."""

    server: Server
    job_id: str
    last: int
    seen: list[int] = field(default_factory=list)
    taken_up: int = 0

    def follow(self) -> None:
        """Listen until the event `last` has come."""
        headers = {"Authorization": f"Bearer {self.server.key}", "Accept": "text/event-stream"}
        while not self.seen or self.seen[-1] < self.last:
            if self.seen:
                headers["Last-Event-ID"] = str(self.seen[-1])
            try:
                with httpx.stream(
                    "GET", f"http://127.0.0.1:{self.server.port}/v1/jobs/{self.job_id}/events", headers=headers
                ) as got:
                    self._read(got)
            except httpx.TransportError:
                time.sleep(0.1)
            self.taken_up += 1

    def _read(self, answer: httpx.Response) -> None:
        number = 0
        for line in answer.iter_lines():
            if line.startswith("id:"):
                number = int(line.removeprefix("id:"))
            elif line.startswith("data:"):
                json.loads(line.removeprefix("data:"))  # whole, or it was not delivered
                self.seen.append(number)
                if number >= self.last:
                    return


def across_restarts(server: Server, job_id: str, number: int, restarts: int) -> Listener:
    """Write events while the API is killed and started again; return who listened meanwhile."""
    listener = Listener(server, job_id, last=1 + number)
    hears = threading.Thread(target=listener.follow, daemon=True)
    hears.start()
    writes = threading.Thread(target=tell, args=(server.url, job_id, number, 0.05), daemon=True)
    writes.start()
    for _ in range(restarts):
        time.sleep(2.0)
        server.kill()
        time.sleep(0.5)
        server.start("/healthz/live")
    writes.join()
    hears.join(120)
    return listener
