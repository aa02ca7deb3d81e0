"""A real service for a bench, its live figures, and what its database remembers of finished jobs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from client.api import Lathe

ROOT = Path(__file__).parent.parent.parent
PROBE_SECONDS = 120.0
"""How long a fresh worker may take to measure its rates: it waits for thirty seconds in which the machine idles."""
SAMPLE_SECONDS = 1.0
"""How often the service's processes are asked for their time: what one takes after the last time before its end is not seen."""


class Service:
    """`lathe up` in a home of its own."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path, url: str) -> None:
        self.process, self.home = process, home
        self._times: dict[tuple[int, float], float] = {}
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

    def cpu_seconds(self) -> float:
        """Return the processor time of the service and all that it has started, as far as this was called while it ran.

        The kernel adds the time of a process that has ended to its parent's only if the parent waits for it, which an engine's
        confinement does not.
        """
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for each in [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    self._times[each.pid, each.create_time()] = sum(each.cpu_times()[:2])
        return sum(tuple(self._times.values()))  # of a moment: both threads write them

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask for the processor time regularly meanwhile."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                self.cpu_seconds()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


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
        with service.watched():
            yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class Others:
    """What processes other than a service's take of the processors."""

    def __init__(self, service: Service) -> None:
        self.service, self.started = service, time.monotonic()
        self.busy, self.own = self._busy(), service.cpu_seconds()

    def share(self) -> float:
        """Return their share of all processors since this was made."""
        room = (time.monotonic() - self.started) * (os.cpu_count() or 1)
        found = self._busy() - self.busy - (self.service.cpu_seconds() - self.own)
        return min(max(found / room, 0.0), 1.0)

    @staticmethod
    def _busy() -> float:
        times = psutil.cpu_times()
        return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
