"""Asks the solver in a process of its own, which starts with the first question and stays.

So a question holds neither the interpreter of the service nor, if its tables are hostile, its memory; and what takes too long
is ended. One question is solved at a time; a few wait for it in their threads, no more than some of each team, and all others
are refused at once.
"""

import importlib.util
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compression
from app.core.errors import NoAnswer, NoSolver, TooManyTargets

MODULE = "compression.planning.search.solver_process"
MOST_WAITING, MOST_OF_TEAM = 8, 3
"""Questions that are answered or wait, of some 40 threads that all requests share; and those of one team among them."""
START_SECONDS, GRACE_SECONDS = 30.0, 3.0
"""What the process may take beside the solver's time: with the first question, and with later ones."""
FRONT_SECONDS = 6.0
"""Of the solver for a front, the longest question."""
PATIENCE_SECONDS = FRONT_SECONDS + GRACE_SECONDS
"""How long a question waits for those before it: at least one of any kind may take its time."""
MOST_BYTES = 8 << 20
"""Of a reply."""


class _Ended(Exception):
    """The process ended, or replied to something else, before its time was over."""


class SolverProcess:
    """The process, started when it is needed."""

    def __init__(self, module: str = MODULE, patience: float = PATIENCE_SECONDS, waiting: int = MOST_WAITING) -> None:
        self.command = [sys.executable, "-m", module]
        self.patience, self.waiting = patience, waiting
        self.asking, self.counting, self.turn = Counter[str](), threading.Lock(), threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.number = 0

    def ask(self, team: str, request: bytes, seconds: float) -> bytes:
        """Return the reply to a team's request, both one line. seconds: that the solver takes at most.

        Raises TooManyTargets, NoSolver, and NoAnswer if the process ends or has no answer long after its time.
        """
        with self._place(team):
            while True:
                process, is_new = self._running()
                try:
                    return self._exchange(process, request, seconds + (START_SECONDS if is_new else GRACE_SECONDS))
                except _Ended:
                    if is_new:
                        raise NoAnswer("the solver's process ended before it had an answer") from None
                    # An old one may have ended since the last question: once more, with a new one.

    def close(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _exchange(self, process: "subprocess.Popen[bytes]", request: bytes, most: float) -> bytes:
        """Return the reply that bears this request's number: a stray line must not pass for an answer to another team.

        most: seconds. Raises NoAnswer if it takes longer, and _Ended; after any failure the process is ended, too.
        """
        self.number += 1
        mark, late = b"%d " % self.number, threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        ending = threading.Timer(most, end)
        ending.start()
        found = b""
        try:
            found = _reply(process, mark + request)
        finally:
            ending.cancel()
            answered = found.startswith(mark) and found.endswith(b"\n")
            if not answered:
                self.close()
        if answered:
            return found.removeprefix(mark)
        if late.is_set():
            raise NoAnswer(f"the solver had no answer after {most:g} s")
        raise _Ended

    @contextmanager
    def _place(self, team: str) -> Iterator[None]:
        """Wait for this question's turn. Raises TooManyTargets."""
        with self.counting:
            if self.asking.total() >= self.waiting or self.asking[team] >= MOST_OF_TEAM:
                whose = "of the team " if self.asking[team] >= MOST_OF_TEAM else ""
                raise TooManyTargets(f"too many questions {whose}about targets wait already")
            self.asking[team] += 1
        try:
            if not self.turn.acquire(timeout=self.patience):
                raise TooManyTargets(f"other questions about targets took more than {self.patience:g} s")
            try:
                yield
            finally:
                self.turn.release()
        finally:
            with self.counting:
                self.asking[team] -= 1
                self.asking += Counter()  # forgets teams that ask nothing

    def _running(self) -> tuple["subprocess.Popen[bytes]", bool]:
        """Return the process, and whether it is a new one because there was none. Raises NoSolver."""
        if self.process is not None and self.process.poll() is None:
            return self.process, False
        if importlib.util.find_spec("scipy") is None:
            raise NoSolver("scipy is not installed")
        self.close()
        # Nothing of the service's environment: its secrets are none of the solver's business.
        own = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
        own |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        place = Path(compression.__path__[0]).parent
        self.process = subprocess.Popen(self.command, cwd=place, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self.process, True


def _reply(process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    """Return the line that the process writes next; an empty one if it has ended."""
    assert process.stdin is not None  # noqa: S101 (both are pipes)
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(line.rstrip(b"\n") + b"\n")
        process.stdin.flush()
        return process.stdout.readline(MOST_BYTES)
    except OSError:
        return b""


solver = SolverProcess()
"""This process's own."""
