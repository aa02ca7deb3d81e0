"""Long polling: waiting for a row to change without holding a thread or a session. One poller per process serves all."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy import func, select

from app.store.db import reading
from app.store.models import QUEUED, Dataset, Device, Job, Model, Prediction, Profile

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
"""Interval of comment lines, so that proxies do not close a quiet stream."""
TEAM = "team"
"""The team's newest job: a change means that its lists have a new entry."""
log = structlog.get_logger()


def _versions(watched: dict[str, set[str]]) -> dict[str, Any]:
    """Return the version of each watched row, from the database, in a thread."""
    waiting = select(func.max(Profile.id)).where(Profile.device_id == Device.id, Profile.state == QUEUED)
    columns: dict[str, tuple[Any, Any]] = {
        "job": (Job.id, Job.version),
        "model": (Model.id, Model.state),
        "dataset": (Dataset.id, Dataset.state),
        "try": (Prediction.id, Prediction.state),
        "profile": (Profile.id, Profile.state),
        "device": (Device.id, waiting.scalar_subquery()),
    }
    found: dict[str, Any] = {}
    with reading() as session:
        for team in watched.pop(TEAM, ()):
            newest = select(Job.id).where(Job.team_id == team).order_by(Job.id.desc()).limit(1)
            found[team] = session.scalar(newest) or ""
        for kind, ids in watched.items():
            key, version = columns[kind]
            wanted = sorted(ids)
            for start in range(0, len(wanted), 500):
                rows = session.execute(select(key, version).where(key.in_(wanted[start : start + 500])))
                found.update((identifier, seen) for identifier, seen in rows)
    return found


class ChangePoller:
    """Wakes tasks that wait for a row when its version differs from the one they know."""

    def __init__(self, fetch: Callable[[dict[str, set[str]]], dict[str, Any]] = _versions) -> None:
        self.fetch = fetch
        self.waiting: dict[tuple[str, str], set[tuple[Any, asyncio.Future[None]]]] = defaultdict(set)
        self.task: asyncio.Task[None] | None = None

    async def changed(self, kind: str, identifier: str, known: Any, seconds: float) -> bool:
        """Return True once the row's version differs from `known`, False after so many seconds."""
        return await self.wait_for_any({(kind, identifier): known}, seconds)

    async def wait_for_any(self, known: Mapping[tuple[str, str], Any], seconds: float) -> bool:
        """Return True once any row's version differs from the known one, False after so many seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entries = {place: (version, future) for place, version in known.items()}
        for place, entry in entries.items():
            self.waiting[place].add(entry)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            for place, entry in entries.items():
                self.waiting[place].discard(entry)
                if not self.waiting[place]:
                    del self.waiting[place]
        return True

    async def _poll(self) -> None:
        while self.waiting:
            watched: dict[str, set[str]] = defaultdict(set)
            for kind, identifier in self.waiting:
                watched[kind].add(identifier)
            try:
                found = await asyncio.to_thread(self.fetch, watched)
            except Exception as error:  # the database is away for a moment: the tasks go on waiting
                log.warning("watch_failed", error=str(error))
                found = {}
            for (_, identifier), entries in list(self.waiting.items()):
                for known, future in list(entries):
                    if identifier in found and found[identifier] != known and not future.done():
                        future.set_result(None)
            await asyncio.sleep(POLL_SECONDS)


change_poller = ChangePoller()


def parse_wait(prefer: str | None, limit: float = 60.0) -> float:
    """Parse `Prefer: wait=30` (RFC 7240) into seconds, bounded; 0 if it is absent or invalid."""
    for part in (prefer or "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.strip().isdecimal():
            return min(float(value.strip()), limit)
    return 0.0
