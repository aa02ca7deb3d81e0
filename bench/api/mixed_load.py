"""Mixed load of ten teams: idle streams, clients that poll once a second, clients that submit; and what each receives."""

import asyncio
import dataclasses
import json
import resource
import secrets
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.jobs import fencing, jobs
from app.store.db import make_engine
from app.store.models import Job
from bench.api.queues import ready
from bench.api.servers import Server

TEAMS, STREAMS, POLLERS, SUBMITTERS = 10, 1000, 100, 10
EVERY_SECONDS = 1.0
"""Between two requests of a client, and between two events of the ten jobs together."""
PATIENCE = 30.0
"""Seconds for the last events to reach every stream."""


@dataclass(frozen=True)
class Team:
    """A team's view of the server, the job that its streams and pollers look at, and what it submits."""

    server: Server
    job: str
    body: bytes


@dataclass
class Seen:
    """Results of all clients. polls, submits: seconds of each response; memory: (seconds since the start, resident bytes)."""

    polls: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)
    heard: list[list[int]] = field(default_factory=list)
    """For each stream the seq of its events."""
    due: list[range] = field(default_factory=list)
    """For each stream the seq of all events of its job."""

    @property
    def lost(self) -> int:
        """Events that were not received."""
        return sum(len(set(due) - set(heard)) for due, heard in zip(self.due, self.heard, strict=True))

    @property
    def twice(self) -> int:
        """Events that were received twice."""
        return sum(len(heard) - len(set(heard)) for heard in self.heard)

    def grown(self, seconds: float) -> tuple[float, float]:
        """Return the median memory of the second and of the last third of the run."""
        thirds = [[held for at, held in self.memory if seconds * n / 3 <= at < seconds * (n + 1) / 3] for n in (1, 2)]
        return statistics.median(thirds[0]), statistics.median(thirds[1])


def measure(server: Server, seconds: float) -> Seen:
    """Run all clients for so many seconds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return asyncio.run(_measure(server, _teams(server), seconds))


def _teams(server: Server) -> list[Team]:
    """Create the teams, each with a running job."""
    made = []
    for number in range(TEAMS):
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as http:
            headers = {"Authorization": f"Bearer {server.key}"}
            team = http.post("/v1/teams", json={"name": f"team {number}"}, headers=headers).raise_for_status().json()
            own = dataclasses.replace(server, key=team["key"])
            body = json.dumps(ready(own, server.url)).encode()
            headers = {"Authorization": f"Bearer {own.key}", "Content-Type": "application/json"}
            job = http.post("/v1/jobs", content=body, headers=headers).raise_for_status().json()["id"]
        made.append(Team(own, job, body))
    engine = make_engine(server.url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET state = 'running', fence = 1, attempt = 1, started_at = now(),"
                " lease_until = now() + interval '1 day'"
            )
        )
    engine.dispose()
    return made


async def _measure(server: Server, teams: list[Team], seconds: float) -> Seen:
    seen, over = Seen(heard=[[] for _ in range(STREAMS)]), asyncio.Event()
    follow = [asyncio.create_task(_follow(teams[n % TEAMS], seen.heard[n])) for n in range(STREAMS)]
    while not all(seen.heard):  # every stream is open once it has said that its job was queued
        if broken := [task for task in follow if task.done()]:
            broken[0].result()
        await asyncio.sleep(0.1)
    enough = threading.Event()
    writing = asyncio.create_task(asyncio.to_thread(_write, server.url, teams, enough))
    started = time.monotonic()
    clients = [_poll(teams[n % TEAMS], n / POLLERS, seen, over) for n in range(POLLERS)]
    clients += [_submit(teams[n % TEAMS], n / SUBMITTERS, seen, over) for n in range(SUBMITTERS)]
    running = [asyncio.create_task(client) for client in clients]
    while (passed := time.monotonic() - started) < seconds:
        seen.memory.append((passed, server.resident_bytes()))
        await asyncio.sleep(EVERY_SECONDS)
    over.set()
    await asyncio.gather(*running)
    enough.set()
    last = await writing
    seen.due = [range(1, last[teams[n % TEAMS].job] + 1) for n in range(STREAMS)]
    for _ in range(int(PATIENCE)):
        if not seen.lost:
            break
        await asyncio.sleep(1)
    for task in follow:
        task.cancel()
    await asyncio.gather(*follow, return_exceptions=True)
    return seen


def _write(url: str, teams: list[Team], enough: threading.Event) -> dict[str, int]:
    """Write an event of each job in turn, as its worker does; return the seq of each job's last event."""
    engine, place = make_engine(url), 0
    with Session(engine, expire_on_commit=False) as session:
        claims = [fencing.Claim(session.get_one(Job, team.job), 1) for team in teams]
    while not enough.wait(EVERY_SECONDS):
        with Session(engine) as session, session.begin():
            jobs.record_event(session, claims[place % TEAMS], "log", {"level": "info", "message": f"line {place}"})
        place += 1
    with Session(engine) as session:
        last = {team.job: session.get_one(Job, team.job).event_seq for team in teams}
    engine.dispose()
    return last


async def _poll(team: Team, begin: float, seen: Seen, over: asyncio.Event) -> None:
    await _repeat(team, team.server.request(f"/v1/jobs/{team.job}"), begin, seen.polls, seen, over)


async def _submit(team: Team, begin: float, seen: Seen, over: asyncio.Event) -> None:
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {team.server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(team.body)}\r\nIdempotency-Key: "
    ).encode()
    await _repeat(team, head, begin, seen.submits, seen, over, team.body)


async def _repeat(
    team: Team, head: bytes, begin: float, took: list[float], seen: Seen, over: asyncio.Event, body: bytes | None = None
) -> None:
    """Send a request once a second over one connection. With a body, each has its own Idempotency-Key."""
    await asyncio.sleep(begin)
    reader, writer = await asyncio.open_connection("127.0.0.1", team.server.port)
    while not over.is_set():
        started = time.perf_counter()
        writer.write(head if body is None else head + secrets.token_hex(16).encode() + b"\r\n\r\n" + body)
        status, headers = await _head(reader)
        await reader.readexactly(int(headers.get("content-length", "0")))
        took.append(time.perf_counter() - started)
        seen.statuses[status] += 1
        await asyncio.sleep(max(0.0, EVERY_SECONDS - took[-1]))
    writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _follow(team: Team, heard: list[int]) -> None:
    """Follow the team's job; append the seq of its events to `heard`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", team.server.port)
    writer.write(team.server.request(f"/v1/jobs/{team.job}/events", "Accept: text/event-stream"))
    try:
        status, _ = await _head(reader)
        if status != 200:
            raise SystemExit(f"a stream was answered with {status}")
        while size := int((await reader.readline()).strip(), 16):
            lines = (await reader.readexactly(size)).splitlines()
            heard.extend(int(line[3:]) for line in lines if line.startswith(b"id:"))
            await reader.readexactly(2)
    finally:
        writer.close()
