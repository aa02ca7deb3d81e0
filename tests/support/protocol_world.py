"""Where the protocol of jobs is played: a database to begin in, what a model in plain Python knows of each job, and a machine.

The machine has both, and no rules: those are the test's (test_protocol.py).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.jobs import fencing
from app.store.db import make_engine
from tests.conftest import Database
from tests.support.rows import ready, team

CAP = 3
TEAMS = ("a", "b")
TABLES = ("jobs", "events", "metrics", "checkpoints", "artifacts", "files")


class World:
    """A database of a kind, empty but for two teams that have a model and a dataset each; fresh for every example."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.engine = make_engine(database.url)
        self.owners = self._people()
        self.made = 0
        if database.kind == "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            self.engine.dispose()

    def _people(self) -> dict[str, tuple[str, str, str]]:
        owners = {}
        with Session(self.engine) as session, session.begin():
            for name in TEAMS:
                owner = team(session, name)
                model, dataset = ready(session, owner)
                owners[name] = (owner.id, model.id, dataset.id)
        return owners

    def fresh(self) -> Engine:
        if self.database.kind == "postgresql":
            with self.engine.begin() as connection:
                connection.execute(text(f"TRUNCATE {', '.join(TABLES)}, team_days CASCADE"))
                connection.execute(text("UPDATE teams SET queued = 0, running = 0"))  # no trigger sees a TRUNCATE
            return self.engine
        self.made += 1
        copy = self.folder / f"{self.made}.db"
        shutil.copy(self.database.url.removeprefix("sqlite:///"), copy)
        return make_engine(f"sqlite:///{copy}")

    def done(self, engine: Engine) -> None:
        if self.database.kind == "sqlite":
            engine.dispose()
            for path in self.folder.glob(f"{self.made}.db*"):
                path.unlink()


@dataclass
class Told:
    id: str
    team: str
    priority: int
    deadline: bool
    state: str = "queued"
    fence: int = 0
    failures: int = 0
    worker: str | None = None
    dead: bool = False
    """Its lease has run out."""
    waits: bool = False
    """Its back-off is not over."""
    late: bool = False
    """Its deadline has passed."""
    asked: bool = False
    """Its cancel was asked for."""
    deleted: bool = False
    stages: set[str] = field(default_factory=set)
    saved: set[str] = field(default_factory=set)
    """Its checkpoints."""
    events: list[str] = field(default_factory=lambda: ["queued"])
    origins: set[str] = field(default_factory=set)
    final: Any = None
    """Its outcome and metrics, as they were when it ended."""

    def end(self, state: str) -> None:
        self.state = state
        self.events.append(state)

    def set_back(self, *, backoff: int) -> None:
        """Lose a worker."""
        self.failures += 1
        self.dead = False
        if self.asked:
            self.end("cancelled")
        elif self.failures >= CAP:
            self.end("failed")
        else:
            self.state, self.worker, self.waits = "queued", None, backoff > 0
            self.events.append("requeued")


class Machine(RuleBasedStateMachine):
    """A world's database beside what is told of its jobs, and the ways to look at both and to write."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.engine = world.fresh()
        self.told: dict[str, Told] = {}

    def teardown(self) -> None:
        self.world.done(self.engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction. Its wake-up is lost: the table is the queue."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
            session.info.pop("wake", None)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(found) for found in connection.execute(text(query))]

    def sql(self, statement: str, job: str) -> None:
        """Let time pass for a job."""
        past = "'2000-01-01 00:00:00.000000'"
        with self.engine.begin() as connection:
            connection.execute(text(f"UPDATE jobs SET {statement} = {past} WHERE id = :job"), {"job": job})

    def everything(self) -> list[Any]:
        return [self.read(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]

    def holds(self, claim: fencing.Claim) -> bool:
        """Say whether a claim is the job's present one."""
        job = self.told[claim.job.id]
        return job.state == "running" and job.fence == claim.fence

    def write(
        self, claim: fencing.Claim, act: Callable[[Session], object], then: Callable[[Told], None], *, made: bool = False
    ) -> None:
        """Write with a claim: the holder changes the job; anybody else is refused, and nothing changes.

        `made`: the same write was made before, so that it is quietly taken for that one.
        """
        job = self.told[claim.job.id]
        if self.holds(claim) and not made:
            with self.session() as session:
                act(session)
            then(job)
            return
        before = self.everything()
        if made:
            with self.session() as session:
                act(session)
        else:
            with pytest.raises(fencing.StaleFence), self.session() as session:
                act(session)
        assert self.everything() == before

    def write_once(
        self, claim: fencing.Claim, name: str, kind: str, act: Callable[..., object], then: Callable[[Told], object] = bool
    ) -> None:
        """Write with an origin, which makes an event: what is written again under the same one changes nothing."""
        origin = f"{claim.fence}.{name}"

        def both(job: Told) -> None:
            job.events.append(kind)
            job.origins.add(origin)
            then(job)

        made = origin in self.told[claim.job.id].origins
        self.write(claim, partial(act, claim=claim, origin=origin), both, made=made)

    def refused(self, expected: type[Exception], act: Callable[[Session], object]) -> None:
        before = self.everything()
        with pytest.raises(expected), self.session() as session:
            act(session)
        assert self.everything() == before
