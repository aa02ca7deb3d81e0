"""Asks the solver in a process of its own, which starts with the first question and stays.

So a question holds neither the interpreter of the service nor, if its tables are hostile, its memory; and what takes too long
is ended. One question is solved at a time; a few wait for it in their threads, and all others are refused at once.
"""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compression
from app.core.errors import NoAnswer, NoSolver, TooManyTargets

MODULE = "compression.planning.search.solver_process"
PATIENCE_SECONDS = 4.0
"""How long a question waits for those before it."""
MOST_WAITING = 8
"""Questions that are answered or wait, of some 40 threads that all requests share."""
START_SECONDS, GRACE_SECONDS = 30.0, 3.0
"""What the process may take beside the solver's time: with the first question, and with later ones."""
MOST_BYTES = 8 << 20
"""Of a reply."""


class SolverProcess:
    """The process, started when it is needed."""

    def __init__(self, module: str = MODULE, patience: float = PATIENCE_SECONDS, waiting: int = MOST_WAITING) -> None:
        self.command = [sys.executable, "-m", module]
        self.patience = patience
        self.places, self.turn = threading.BoundedSemaphore(waiting), threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes, seconds: float) -> bytes:
        """Return the reply to a request, both one line. seconds: that the solver takes at most.

        Raises TooManyTargets, NoSolver, and NoAnswer if the process ends or has no answer long after its time.
        """
        with self._place():
            process = self._running()
            grace = GRACE_SECONDS if process is self.process else START_SECONDS
            self.process = process
            ending = threading.Timer(seconds + grace, process.kill)
            ending.start()
            try:
                found = self._exchange(process, request)
            finally:
                ending.cancel()
            if not found.endswith(b"\n"):
                self.close()
                raise NoAnswer("the solver's process ended before it had an answer")
            return found

    def close(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    @staticmethod
    def _exchange(process: "subprocess.Popen[bytes]", request: bytes) -> bytes:
        assert process.stdin is not None  # noqa: S101 (both are pipes)
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(request.rstrip(b"\n") + b"\n")
            process.stdin.flush()
            return process.stdout.readline(MOST_BYTES)
        except OSError:
            return b""

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Wait for this question's turn. Raises TooManyTargets."""
        if not self.places.acquire(blocking=False):
            raise TooManyTargets("too many questions about targets wait already")
        try:
            if not self.turn.acquire(timeout=self.patience):
                raise TooManyTargets(f"other questions about targets took more than {self.patience:g} s")
            try:
                yield
            finally:
                self.turn.release()
        finally:
            self.places.release()

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process, a new one if there is none. Raises NoSolver."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        if importlib.util.find_spec("scipy") is None:
            raise NoSolver("scipy is not installed")
        self.close()
        # Nothing of the service's environment: its secrets are none of the solver's business.
        own = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
        own |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        place = Path(compression.__path__[0]).parent
        return subprocess.Popen(self.command, cwd=place, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


solver = SolverProcess()
"""This process's own."""
