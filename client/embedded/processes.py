"""A part of `lathe up`: a child process with a log, restarted with back-off, and ended with its descendants."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

import psutil

from client.embedded import watchdog
from client.errors import CannotStart

PR_SET_PDEATHSIG = 1
LONGEST_PAUSE = 30.0
SETTLED = 60.0
"""Seconds after which a part counts as healthy, and its back-off starts over."""
ROTATE = 16 << 20
"""Bytes at which a log is rotated; one old one is kept, so a part's logs take about twice as much."""


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """Return what a child does before exec on Linux: request SIGTERM for when `lathe up` dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return before_exec


class Watchdog:
    """The process that ends all parts if this one is killed; it keeps the home's lock until then."""

    def __init__(self, environment: Mapping[str, str], folder: Path, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", watchdog.__file__],  # as a module, it would import all of the client
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            pass_fds=(lock,),
        )
        self._pids = cast("IO[bytes]", self._process.stdin)

    def watch(self, pid: int) -> None:
        """Pass it the pid of a part."""
        try:
            self._pids.write(f"{pid}\n".encode())
            self._pids.flush()
        except BrokenPipeError as error:
            raise CannotStart("the watchdog of `lathe up` was killed", remedy="Start `lathe up` again.") from error

    def close(self) -> None:
        """Close the pipe, so that it ends any part that is left; wait for it."""
        self._pids.close()
        try:
            self._process.wait(LONGEST_PAUSE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Part:
    """One process of `lathe up`."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, logs: Path, grace: float
    ) -> None:
        self.name, self.command, self.grace = name, list(command), grace
        self.log = logs / f"{name}.log"
        self.environment, self._folder = dict(environment), folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._due = 0.0
        self._deaths = 0
        self._asked: float | None = None

    @property
    def pid(self) -> int | None:
        """Pid of its process, if it was started."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def rotate(self) -> None:
        """Rotate a long log. The part keeps appending; lines written during the copy may be lost."""
        left = self.log.stat().st_size if self.log.exists() else 0
        if left <= ROTATE:
            return
        old = self.log.with_suffix(".log.1")
        with contextlib.suppress(OSError), self.log.open("rb") as now, old.open("wb") as kept:
            # On a full disk, space matters more than an old log. A part may write as fast as this copies: to its end, for ever.
            while left > 0 and (done := os.sendfile(kept.fileno(), now.fileno(), None, left)):
                left -= done
        os.truncate(self.log, 0)

    def _open_log(self) -> BinaryIO:
        self.rotate()
        return self.log.open("ab")

    def start(self, dog: Watchdog) -> None:
        """Start it in its own session: Ctrl-C reaches `lathe up` alone, which stops the parts in order."""
        with self._open_log() as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),  # safe: this process has one thread
            )
        self._started = time.monotonic()
        dog.watch(self._process.pid)

    def last_words(self, lines: int = 15) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as source:
            source.seek(max(0, self.log.stat().st_size - 8192))
            text = source.read().decode("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def look_after(self, dog: Watchdog) -> str | None:
        """Restart it if it died and its pause is over; return a message once per death."""
        self.rotate()
        if self._process is None or self._process.poll() is None:
            return None
        now = time.monotonic()
        if not self._due:
            watchdog.kill(self._leftovers())
            self._deaths = 1 if now - self._started > SETTLED else self._deaths + 1
            pause = min(2.0 ** (self._deaths - 1), LONGEST_PAUSE)
            self._due = now + pause
            return f"{self.name} ended (exit {self._process.returncode}); it is started again in {pause:g} s. Log: {self.log}"
        if now >= self._due:
            self._due = 0.0
            self.start(dog)
        return None

    def _leftovers(self) -> list[psutil.Process]:
        """Return the processes that a dead part left in its session."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.pid and os.getsid(process.pid) == self.pid:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once: a second one would interrupt the shutdown."""
        if self._process is not None and self.alive and self._asked is None:
            self._process.terminate()
            self._asked = time.monotonic()

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Send SIGTERM, wait, then SIGKILL it and its descendants; without waiting if `hurry` returns True.

        Its grace runs from the SIGTERM: parts that were asked together have it together.
        """
        if self._process is None:
            return
        below = watchdog.tree(self._process.pid)
        self.ask_to_stop()
        deadline = (self._asked or time.monotonic()) + self.grace
        while self.alive and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        # The job of an engine that is still running resumes from its last stage at the next start.
        rest = {process for process in [*below, *watchdog.tree(self._process.pid), *self._leftovers()] if process.is_running()}
        if self.alive:
            self._process.kill()
        watchdog.kill(list(rest))
        self._process.wait()
