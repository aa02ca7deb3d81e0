"""A stand: the service over servers of its own, with proxies between, on each database; uploads are made once.

Tests share the stand of a database, since making one costs more than most tests; each begins with everything running but
workers for jobs, and each looks at jobs of its own.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.jobs import jobs
from app.store.db import READ_ONLY, make_engine
from app.store.models import Job, Team
from tests.conftest import DATABASES, Database, Service, fresh_database, wait_for
from tests.faults.proxy import Proxy
from tests.faults.servers import Postgres, Server, Valkey
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits

PATIENCE = 900.0
OVER = ("succeeded", "failed", "cancelled")
POSTGRES = pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
"""For faults that only one of the databases can have, or that have nothing to do with it."""

SHORT: dict[str, Any] = {"prepare": {"epochs": 1, "rate": 1e-3}, "quantize": None, "prune": None, "distill": None}
"""Only the baseline: prepare, export, measure. The cheapest job that there is."""
LONG: dict[str, Any] = {**SHORT, "prepare": {"epochs": 200, "rate": 1e-3}}
"""Trains for longer than any test waits, in small steps."""
QUICKLY = {"length": 8}
STEADY = {
    "LATHE_BACKOFF_SECONDS": "0.001",  # it doubles with each failure, and some jobs here have a dozen
    "LATHE_MAX_FAILURES": "50",  # a slow machine may lose a lease or two on its own, and that is not what is tested
    "LATHE_SWEEP_SECONDS": "1",
    "LATHE_KEEPER_SECONDS": "0.5",
}


class Told(NamedTuple):
    state: str = "unknown"
    attempt: int = 0
    events: frozenset[str] = frozenset()


@dataclass
class Stand:
    service: Service
    valkey: Valkey
    broker: Proxy
    postgres: Postgres | None
    database: Proxy | None
    workers_database: Proxy | None
    """Workers come to PostgreSQL through a proxy of their own, so that what is lost is theirs."""
    engine: Engine
    model: str = ""
    data: str = ""
    marks: int = 0
    workers: int = 0
    jobs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = self.service.client()
        self.reader = self.engine.execution_options(**READ_ONLY)  # on SQLite, others would wait for each look

    # Processes.

    def start_worker(self, **settings: str) -> str:
        """Start one more worker for jobs, with settings of its own; return its name."""
        self.workers += 1
        name = f"jobs-{self.workers}"
        if self.database and self.workers_database:
            theirs = self.service.database.url.replace(f":{self.database.port}/", f":{self.workers_database.port}/")
            settings = {"LATHE_DATABASE_URL": theirs, **settings}
        with self.with_settings(**settings):
            self.service.start(name, "workers", "jobs")
        return name

    def crash_at(self, *points: str) -> tuple[dict[str, str], list[Path]]:
        """Settings that kill one process at each of these points, and the files that appear when it has happened."""
        self.marks += 1
        marks = [self.service.home / f"mark-{self.marks}-{point}" for point in points]
        return {"LATHE_CRASH_AT": ",".join(f"{point}:{mark}" for point, mark in zip(points, marks, strict=True))}, marks

    @contextlib.contextmanager
    def with_settings(self, **settings: str) -> Iterator[None]:
        before = dict(self.service.settings)
        self.service.settings.update(settings)
        try:
            yield
        finally:
            self.service.settings.clear()
            self.service.settings.update(before)

    def restart_api(self, **settings: str) -> None:
        self.service.kill("api")
        with self.with_settings(**settings):
            self.service.start_api()

    def family(self, name: str) -> list[psutil.Process]:
        """The processes beneath one of ours: a worker's child, its engine, and what that has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.service.processes[name].pid).children(recursive=True)
        return []

    def engine_of(self, name: str) -> psutil.Process:
        return wait_for(lambda: [p for p in self.family(name) if is_engine(p)], PATIENCE)[0]

    def wait_end(self, name: str) -> None:
        self.service.processes[name].wait(PATIENCE)

    # Jobs.

    def submit(self, recipe: dict[str, Any], key: str | None = None, **body: Any) -> httpx.Response:
        recipe = {**TINY_RECIPE, **recipe}
        sent = {"models": {"base": self.model}, "datasets": [self.data], "recipe": recipe, "evaluate": QUICKLY, **body}
        return self.http.post("/v1/jobs", json=sent, headers={"Idempotency-Key": key} if key else {})

    def job(self, recipe: dict[str, Any], **body: Any) -> str:
        answer = self.submit(recipe, **body)
        assert answer.status_code == 202, answer.text
        self.jobs.append(answer.json()["id"])
        return self.jobs[-1]

    def queue(self, session: Session) -> Job:
        """Queue a job that no worker is to hear of."""
        team = session.scalars(select(Team.id)).first()
        values = {"recipe": {}, "evaluate": {}, "targets": {}, "task": "text-classification", "priority": 99}
        return jobs.submit(session, Job(team_id=team, name="r", model_id=self.model, dataset_id=self.data, **values))

    def show(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        return answer.json() if answer.status_code == 200 else {"state": "unknown", "stage": None}

    def events(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        path: str | None = f"/v1/jobs/{job_id}/events?page_size=1000"
        while path:
            answer = self.http.get(path)
            found += answer.json()["items"]
            path = answer.links.get("next", {}).get("url")
        return found

    def told(self, job_id: str) -> Told:
        """Return how far a job is, by SQL: waits ask again and again, and a request costs the service far more."""
        with contextlib.suppress(DBAPIError), self.reader.connect() as connection:
            state, attempt = connection.execute(text("SELECT state, attempt FROM jobs WHERE id = :id"), {"id": job_id}).one()
            types = connection.scalars(text("SELECT DISTINCT type FROM events WHERE job_id = :id"), {"id": job_id})
            return Told(state, attempt, frozenset(types))
        return Told()

    def reached(self, job_id: str, *types: str) -> None:
        def there() -> bool:
            told = self.told(job_id)
            found = told.events >= set(types)
            assert found or told.state not in OVER, self.show(job_id)
            return found

        wait_for(there, PATIENCE)

    def over(self, job_id: str, state: str = "succeeded") -> dict[str, Any]:
        """Wait for the job's outcome; check that it is this one, and that the whole story holds together."""
        try:
            wait_for(lambda: self.told(job_id).state in OVER, PATIENCE)
        except AssertionError:
            raise AssertionError(f"{self.show(job_id)}\n{self.logs()}") from None
        found = self.show(job_id)
        assert found["state"] == state, (found["error"], self.logs())
        self.check_story(job_id)
        return found

    def taken(self, job_id: str, attempt: int = 1) -> None:
        """Wait until a worker has the job at its nth attempt at least; then end it, which is cheaper than doing it."""

        def at_work() -> bool:
            told = self.told(job_id)
            return told.state == "running" and told.attempt >= attempt

        wait_for(at_work, PATIENCE)
        assert self.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        self.over(job_id, "cancelled")

    def check_story(self, job_id: str) -> None:
        """One outcome and nothing after it, no gap in the events, no stage finished twice, rows as the events tell."""
        found, told = self.show(job_id), self.events(job_id)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        types = [event["type"] for event in told]
        assert [kind for kind in types if kind in OVER] == [found["state"]] == types[-1:]
        finished = [event["data"]["row"]["stage"] for event in told if event["type"] == "stage_finished"]
        assert len(set(finished)) == len(finished), finished
        assert finished == [row["stage"] for row in found["rows"]]
        if found["state"] == "succeeded":
            report = self.http.get(f"/v1/jobs/{job_id}/report").json()
            assert finished == [row["stage"] for row in report["rows"]]
            artifacts = self.http.get(f"/v1/jobs/{job_id}/artifacts").json()["items"]
            assert sorted(one["name"] for one in artifacts) == sorted(one["name"] for one in report["artifacts"])

    def bytes_are_those_of_rows(self) -> None:
        """Wait until the keeper has swept: every file in storage is named by a row, and every row's file is there."""

        left: set[str] = set()

        def agree() -> bool:
            nonlocal left
            named, stored = self.named(), self.stored()
            if lost := (named - stored) & self.named():  # rows go first, and may have gone between the two looks
                pytest.fail(f"rows without bytes: {sorted(lost)[:20]}; {self.service.log('keeper')[-2000:]}")
            left = stored - named
            return named == stored

        try:
            wait_for(agree, 150)  # what the keeper failed to free, it leaves for a minute
        except AssertionError:
            raise AssertionError(
                f"bytes that no row names: {sorted(left)[:20]}; {self.service.log('keeper')[-2000:]}"
            ) from None

    def foretell(self, memory: int) -> None:
        """Have all jobs forecast to take so many bytes of memory."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET memory_bytes = :memory"), {"memory": memory})

    def named(self) -> set[str]:
        """Return the keys that rows name. A deleted upload's bytes are purged before its rows."""
        files = "SELECT key FROM files WHERE key IS NOT NULL" + "".join(
            f" AND coalesce({kind}_id, '') NOT IN (SELECT id FROM {kind}s WHERE deleted_at IS NOT NULL)"
            for kind in ("model", "dataset")
        )
        with self.reader.connect() as connection:
            keys = set(connection.scalars(text(files)))
            rows = connection.execute(text("SELECT prefix, files FROM checkpoints")).all()
        for prefix, files in rows:
            listed = json.loads(files) if isinstance(files, str) else files
            keys |= {f"{prefix}/{file['path']}" for file in listed}
        return keys

    def stored(self) -> set[str]:
        root = self.service.home / "storage"
        # os.walk passes over a folder that the keeper removes meanwhile; rglob raises.
        found = (Path(place, name) for place, _, names in os.walk(root) for name in names)
        keys = {str(path.relative_to(root)) for path in found if path.name != "filler"}
        return {key for key in keys if not key.startswith((".incoming/", ".health/"))}  # which killed writers may leave

    def nothing_runs(self) -> None:
        """Wait until no engine is left on this stand, and no folder of a job."""
        scratch = self.service.home / "scratch"
        wait_for(lambda: not engines_in(scratch), 60)
        wait_for(lambda: not list(scratch.glob("job_*")), 60)

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.service.log(name)[-3000:]}" for name in self.service.processes)

    # Between tests.

    def tidy(self) -> None:
        """End the workers and what is left to do; have everything else running, and the network whole."""
        servers: tuple[Server | None, ...] = (self.valkey, self.postgres)
        for server in filter(None, servers):
            if server.process is None:
                server.start()
        for proxy in filter(None, (self.broker, self.database, self.workers_database)):
            proxy.heal()
        for name in [name for name in self.service.processes if name.startswith("jobs")]:
            for process in self.family(name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.service.kill(name)
            del self.service.processes[name]
        for name in ("api", "keeper"):
            process = self.service.processes[name]
            if process.poll() is not None:
                self.service.start_api() if name == "api" else self.service.start_workers("keeper")
        for job_id in self.jobs:
            with contextlib.suppress(httpx.TransportError):
                self.http.post(f"/v1/jobs/{job_id}/cancel")
        self.jobs.clear()


SMALL_DISK = os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
"""Whether we may mount: as root, and not in a container that forbids it."""


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "320m") -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    yield
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_splits() -> dict[str, bytes]:
    return {
        name: data if name.startswith("train") else b"".join(data.splitlines(keepends=True)[:24])
        for name, data in tiny_splits().items()
    }


def is_engine(process: psutil.Process) -> bool:
    """Say whether a process is the engine itself, and not what confines it or what it has started."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:5] == ["-P", "-m", "compression", "run"]
    return False


def engines_in(scratch: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if (
                "compression" in line
                and any(str(scratch) in word for word in line)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


@pytest.fixture(scope="package")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="package")
def own_postgres(apart: Path) -> Iterator[Postgres]:
    folder = apart / "own-postgres"
    folder.mkdir()
    with Postgres(folder) as server:
        server.make_template()
        yield server


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="package", params=DATABASES)
def shared(
    request: pytest.FixtureRequest,
    own_valkey: Valkey,
    templates: dict[str, str],
    tiny: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Proxy(own_valkey.port))
        server = proxy = theirs = None
        if kind == "postgresql":
            server = request.getfixturevalue("own_postgres")
            proxy, theirs = (stack.enter_context(Proxy(server.port)) for _ in range(2))
            own = server.database()
            through = Database(kind, own.url.replace(f":{server.port}/", f":{proxy.port}/"), own.key)
        else:
            own = through = stack.enter_context(fresh_database(kind, "", templates, folder))
        number = DATABASES.index(kind) + 1  # of the broker's databases
        service = Service(folder / "home", through, own_valkey.url(broker.port, number), settings=dict(STEADY))
        if SMALL_DISK:
            stack.enter_context(small_disk(folder / "home" / "storage"))
        stack.callback(service.stop)
        service.start_api()
        stand = Stand(service, own_valkey, broker, server, proxy, theirs, make_engine(own.url))
        stack.callback(stand.engine.dispose)
        service.start_workers("checks", "keeper")
        model, data = send_model(stand.http, tiny), send_data(stand.http, small_splits())
        assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
        stand.model, stand.data = model["id"], data["id"]
        service.kill("checks")
        del service.processes["checks"]
        yield stand


@pytest.fixture
def stand(shared: Stand) -> Iterator[Stand]:
    yield shared
    shared.tidy()
