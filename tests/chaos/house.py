"""The service over servers of its own, and a service manager that starts again whatever has died."""

import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from app.core.crash_points import POINTS
from tests.chaos.servers import Postgres, Valkey, kill_tree
from tests.conftest import Database, Service, run_bootstrap, wait_for

SETTINGS = {
    "LATHE_HEARTBEAT_SECONDS": "1",
    "LATHE_LEASE_SECONDS": "8",
    "LATHE_KEEPER_SECONDS": "1",
    "LATHE_BACKOFF_SECONDS": "0.05",
    # An engine takes seconds to end after its last word where everything fights for the cores.
    "LATHE_CANCEL_GRACE_SECONDS": "20",
    "LATHE_DRAIN_GRACE_SECONDS": "5",
    "LATHE_SAVE_SECONDS": "1",
    "LATHE_SWEEP_SECONDS": "5",
    # So few connections that slow clients could have them all: 16 of one address.
    "LATHE_MAX_CONNECTIONS": "64",
    # Kills are what this run is about; none of them may be the reason that a job fails.
    "LATHE_MAX_FAILURES": "1000",
}
LONGEST_PAUSE = 1.5
"""Seconds that the service manager may take to notice a death."""
CRASHING = 0.25
"""Share of restarts after which a process is to die once more, at a named crash point."""
POINTS_OF = {"api": "api_", "jobs": "worker_", "keeper": "keeper_"}


class House:
    """All processes of one run. `look_after` must be called often."""

    def __init__(self, root: Path, workers: int, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        root.mkdir(parents=True, exist_ok=True)
        self.postgres, self.valkey = Postgres(root / "pg"), Valkey(root / "valkey")
        self.servers: dict[str, Postgres | Valkey] = {"postgres": self.postgres, "valkey": self.valkey}
        database = Database("postgresql", self.postgres.url, key="")
        self.service = Service(root / "home", database, self.valkey.url, settings=dict(SETTINGS))
        self.marks = root / "marks"
        self.marks.mkdir()
        self.workers = [f"jobs-{number + 1}" for number in range(workers)]
        self.own_deaths: Counter[str] = Counter()
        self.expected: set[str] = set()
        self.due: dict[str, float] = {}
        self.frozen: list[tuple[float, list[psutil.Process]]] = []
        self.armed: list[tuple[str, Path]] = []
        self.arming, self.keep = True, False

    @property
    def names(self) -> list[str]:
        return ["postgres", "valkey", "api", *self.workers, "checks", "keeper"]

    def open(self) -> None:
        self._start("postgres", arm=False)
        self._start("valkey", arm=False)
        wait_for(self.database_answers)
        self.service.database.key = run_bootstrap(self.postgres.url, self.service.home) or ""
        self.service.start_api()
        for name in (*self.workers, "checks", "keeper"):
            self._start(name, arm=False)

    def database_answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.postgres.url):
            return True
        return False

    def _start(self, name: str, *, arm: bool) -> None:
        if name in self.servers:
            self.service.processes[name] = self.servers[name].start()
            return
        role = name.split("-")[0]
        if arm and self.arming and role in POINTS_OF and self.chance.random() < CRASHING:
            point = self.chance.choice([point for point in POINTS if point.startswith(POINTS_OF[role])])
            mark = self.marks / f"{len(self.armed)}-{point}"
            self.armed.append((point, mark))
            self.service.settings["LATHE_CRASH_AT"] = f"{point}:{mark}"
        try:
            if role == "api":
                self.service.start("api", "app.server", "--port", str(self.service.port))
            else:
                self.service.start(name, "workers", role)
        finally:
            self.service.settings.pop("LATHE_CRASH_AT", None)

    def look_after(self) -> None:
        """Start what has died, a moment after its death; wake what was frozen for long enough."""
        now = time.monotonic()
        for name in self.names:
            if self.service.processes[name].poll() is None:
                continue
            if name not in self.due:
                if name not in self.expected:
                    self.own_deaths[name] += 1
                self.expected.discard(name)
                self.due[name] = now + self.chance.uniform(0.1, LONGEST_PAUSE)
            elif now >= self.due[name]:
                del self.due[name]
                self._start(name, arm=True)
        for until, processes in list(self.frozen):
            if now >= until:
                self.frozen.remove((until, processes))
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.expected.add(name)
        if name in self.servers:
            kill_tree(self.service.processes[name], number)
        else:
            self.service.kill(name, number)

    def freeze(self, processes: list[psutil.Process], seconds: float) -> None:
        """Stop processes where they are, and let them go on later, as if nothing had been."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        self.frozen.append((time.monotonic() + seconds, processes))

    def family(self, name: str) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Return a worker's own processes (Celery's parent and child) and the engine's, each oldest first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.service.processes[name].pid)
            children = parent.children()
            engines = [process for child in children for process in child.children(recursive=True)]
            return [parent, *children], engines
        return [], []

    def crashes(self) -> Counter[str]:
        return Counter(point for point, mark in self.armed if mark.exists())

    def settle(self) -> None:
        """Stop hurting: what is frozen wakes, what is dead comes back, and nobody is told to crash any more."""
        self.arming = False
        self.frozen = [(0.0, processes) for _, processes in self.frozen]
        waiting = {point_mark for point_mark in self.armed if not point_mark[1].exists()}
        for _, mark in waiting:  # a mark that is there already makes its point harmless
            mark.with_suffix(".unused").touch()
            mark.touch()
        self.armed = [pair for pair in self.armed if pair not in waiting]

    def close(self) -> None:
        for name in reversed(self.names):
            with contextlib.suppress(KeyError):
                if name in self.servers:
                    kill_tree(self.service.processes[name], signal.SIGINT if name == "postgres" else signal.SIGTERM)
                else:
                    self.service.kill(name)


@contextlib.contextmanager
def opened(root: Path, workers: int, chance: random.Random, *, keep: bool) -> Iterator[House]:
    """A house that runs, and that is gone at the end; its folder stays on request, or where something went wrong."""
    house = House(root, workers, chance)
    house.keep = keep
    try:
        house.open()
        yield house
    except BaseException:
        house.keep = True
        raise
    finally:
        house.close()
        if not house.keep:
            shutil.rmtree(root, ignore_errors=True)
