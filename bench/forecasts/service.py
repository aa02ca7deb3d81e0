"""A real service for a bench, its live figures, and what its database remembers of finished jobs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.others import ProcessTime
from client.api import Lathe

ROOT = Path(__file__).parent.parent.parent
PROBE_SECONDS = 120.0
"""How long a fresh worker may take to measure its rates: it waits for thirty seconds in which the machine idles."""


class Service:
    """`lathe up` in a home of its own."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path, url: str) -> None:
        self.process, self.home = process, home
        self.time = ProcessTime(process.pid)
        self.lathe = Lathe(url, json.loads((home / "client.json").read_text("utf-8"))["key"])

    def wait_for_rates(self) -> bool:
        """Wait until the worker has measured its rates; return whether it has. It does not while others compute."""
        end = time.monotonic() + PROBE_SECONDS
        while time.monotonic() < end:
            if any((worker.facts.get("device") or {}).get("rates") for worker in self.lathe.workers()):
                return True
            time.sleep(2)
        return False

    def stage_times(self, job: str) -> dict[str, tuple[float, float]]:
        """Return a finished job's seconds by stage: as forecast without correction for the machine that ran it, and as they
        were. Empty if the job teaches nothing.
        """
        with closing(sqlite3.connect(f"file:{self.home / 'lathe.db'}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT stages FROM job_times WHERE job_id = ?", (job,)).fetchone()
        stages = json.loads(found[0]) if found else {}
        return {stage: (pair[0], pair[1]) for stage, pair in stages.items()}


@contextmanager
def running(home: Path) -> Iterator[Service]:
    """Run a service on a free port, and stop it at the end. Raises SystemExit if it does not start."""
    command = [sys.executable, "-m", "client", "up", "--home", str(home), "--port", "0", "--json"]
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    process = subprocess.Popen(command, cwd=ROOT, env=hidden, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline() or "{}")
        if "url" not in facts:
            raise SystemExit(f"lathe up did not start: {facts.get('error', facts)}")
        service = Service(process, home, facts["url"])
        with service.time.watched():
            yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
