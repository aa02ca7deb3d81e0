"""The teams of a run, whose quotas are full nearly all the while: two that send jobs, and one that fills its store."""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psycopg

from tests.conftest import ROOT, Service

SENDERS = 2
WAITING, RUNNING = 1, 1
"""Jobs of a team that may wait, and be at work: two workers have one of each team."""
STORE = 1 << 20
"""Bytes that the third team may keep."""
PIECE = 150_000
"""Bytes of each model that it sends."""


@dataclass(frozen=True)
class Tenant:
    team: str
    key: str


def made(service: Service) -> tuple[list[Tenant], Tenant]:
    """Make the teams, and give them their quotas as an operator does; return the senders, and the one that fills its store."""
    with service.client() as http:
        first = next(team["id"] for team in http.get("/v1/teams").json()["items"] if team["mine"])
        more = [http.post("/v1/teams", json={"name": f"team {number}"}).json() for number in range(2, SENDERS + 2)]
    tenants = [Tenant(first, service.database.key), *(Tenant(team["id"], team["key"]) for team in more)]
    for tenant in tenants[:SENDERS]:
        _limit(service, tenant, f"jobs_waiting={WAITING}", f"jobs_running={RUNNING}")
    _limit(service, tenants[SENDERS], f"bytes_stored={STORE}", f"bytes_arriving={3 * PIECE}")
    return tenants[:SENDERS], tenants[SENDERS]


def _limit(service: Service, tenant: Tenant, *changes: str) -> None:
    command = [sys.executable, "-m", "app.quotas", tenant.team, *changes]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **service.env}, check=True, capture_output=True)


class Peaks:
    """The most jobs that a team was ever seen to have in a state."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.most: dict[tuple[str, str], int] = {}

    def look(self) -> None:
        try:
            with psycopg.connect(self.database, connect_timeout=2) as sql:
                found = sql.execute(
                    "SELECT team_id, state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY team_id, state"
                ).fetchall()
        except psycopg.Error:
            return
        for team, state, number in found:
            self.most[team, state] = max(number, self.most.get((team, state), 0))

    def findings(self) -> list[str]:
        """Say where a team had more than its quota. What was at work and died waits again, which no quota forbids."""
        bounds = {"queued": WAITING + RUNNING, "running": RUNNING}
        return [
            f"{team} had {number} jobs {state}, {bounds[state]} at most"
            for (team, state), number in self.most.items()
            if number > bounds[state]
        ]


class BrokenOffError(Exception):
    """The sender is gone in the middle of an upload."""


class Filler(threading.Thread):
    """Sends models until its store is full and deletes one then; some uploads it breaks off. `full` counts refusals."""

    def __init__(self, url: str, tenant: Tenant, chance: random.Random) -> None:
        super().__init__(name="filler", daemon=True)
        self.url, self.tenant, self.chance = url, tenant, chance
        self.stopped = threading.Event()
        self.full = 0
        self.surprises: list[str] = []

    def run(self) -> None:
        # One client for all: each has certificates of its own in memory, two megabytes that are not soon let go.
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.tenant.key}"}, timeout=15) as http:
            while not self.stopped.wait(0.5):
                try:
                    self._once(http)
                except httpx.TransportError:
                    continue
                except Exception as error:
                    self.surprises.append(f"the filler broke: {error!r}")
                    raise

    def _once(self, http: httpx.Client) -> None:
        body = self.chance.randbytes(PIECE)
        manifest = [{"path": "config.json", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}]
        answer = http.post("/v1/models", json={"name": "filler", "files": manifest})
        if answer.status_code == 201:
            self._put(http, f"/v1/models/{answer.json()['id']}/files/config.json", body)
        elif answer.status_code == 507 and answer.json()["code"] == "bytes_quota_exceeded":
            self.full += 1
            self._delete_one(http)
        else:
            self._note("POST", answer)

    def _put(self, http: httpx.Client, place: str, body: bytes) -> None:
        """Send the bytes; every third time break off in the middle."""
        short = self.chance.random() < 1 / 3

        def pieces() -> Iterator[bytes]:
            yield body[: PIECE // 2]
            if short:
                raise BrokenOffError
            yield body[PIECE // 2 :]

        with contextlib.suppress(BrokenOffError):
            self._note("PUT", http.put(place, content=pieces(), headers={"Content-Length": str(PIECE)}), 200)

    def _delete_one(self, http: httpx.Client) -> None:
        found = http.get("/v1/models", params={"page_size": 50})
        if found.status_code == 200 and (items := found.json()["items"]):
            self._note("DELETE", http.delete(f"/v1/models/{self.chance.choice(items)['id']}"), 204, 404)

    def _note(self, method: str, answer: httpx.Response, *expected: int) -> None:
        """Keep what no kill explains."""
        if answer.status_code < 500 and answer.status_code not in expected:
            self.surprises.append(f"{method} answered {answer.status_code} {answer.text[:300]}")
