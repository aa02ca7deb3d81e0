"""A real `lathe up` for tests, and every process that belongs to it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

COMMAND = (sys.executable, "-m", "client", "up", "--json")


@dataclass
class Up:
    process: subprocess.Popen[str]
    home: Path
    facts: dict[str, Any]

    def lathe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it, as a user in another terminal."""
        env = {**environment(), "LATHE_HOME": str(self.home)}
        command = [sys.executable, "-m", "client", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


LESS = {"LATHE_ENGINE_THREADS": "1", "LATHE_EMULATE_SECONDS": "0"}
"""What an engine does without: a tiny model's threads only wait for each other, and an emulated processor is slow."""


def environment() -> dict[str, str]:
    """That of somebody who has not heard of us, but for LESS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")} | LESS


def family(home: Path) -> list[psutil.Process]:
    """Every process that belongs to a home, `lathe up` itself too, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # others end while they are looked at
            mine = process.environ().get("LATHE_HOME") == str(home) or str(home) in " ".join(process.cmdline())
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def start(home: Path, *options: str, files: int | None = None) -> subprocess.Popen[str]:
    """Start it on a free port; each of its processes may open so many `files`."""
    command = [*COMMAND, "--home", str(home), "--port", "0", *options]
    if files:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@contextlib.contextmanager
def running(home: Path, *, files: int | None = None) -> Iterator[Up]:
    """Start it and wait until it is ready; leave nothing of it in the end."""
    process = start(home, files=files)
    try:
        yield Up(process, home, json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        for left in family(home):
            with contextlib.suppress(psutil.Error):
                left.kill()
