"""The engine as a child process: started with a scrubbed environment, read by its events, ended with its whole group."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from pydantic import ValidationError

import compression
from app.settings import Settings
from compression.report import Event, parse_event
from workers.folders import Untrustworthy

LONGEST_LINE = 4 << 20
"""Bytes of one event; a report of many rows and files stays far below."""
MOST_EVENTS_A_SECOND = 200
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment(folder: Path, settings: Settings) -> dict[str, str]:
    """Return what a child may know: no credential, no address, no home of ours."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "HOME": str(folder),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(Path(compression.__file__).parent.parent),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # One lock a host, beyond any job's folder: two jobs must not be timed at once.
        "LATHE_MEASURE_LOCK": str(settings.scratch / "measure.lock"),
    }


def command(verb: str, spec: Path, *more: str) -> list[str]:
    """Return the command line of the engine. -P: the folder that it runs in is no place to import from."""
    return [sys.executable, "-P", "-m", "compression", verb, str(spec), *more]


class Engine:
    """One run of the engine. Use as a context manager: whatever happens, nothing of it is left running."""

    def __init__(self, spec: Path, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.log = folder / "engine.log"
        reader, writer = os.pipe()
        try:
            with self.log.open("wb") as out:
                self.process = subprocess.Popen(
                    command("run", spec, "--events-fd", str(writer), "--die-with-parent"),
                    cwd=folder,
                    env=environment(folder, settings),
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    pass_fds=(writer,),
                    start_new_session=True,
                )
        finally:
            os.close(writer)
        self.pipe = reader
        os.set_blocking(reader, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.pipe)
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def events(self, tick: float) -> Iterator[Event | None]:
        """Yield events as they come, and None after each `tick` seconds without one; ends when the pipe does.

        Raises Untrustworthy for a line that is too long, is no event, or one of a flood.
        """
        buffer = bytearray()
        window, count = time.monotonic(), 0
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            while True:
                if not selector.select(tick):
                    yield None
                    continue
                chunk = os.read(self.pipe, 1 << 16)
                if not chunk:
                    return
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                if len(rest) > LONGEST_LINE:
                    raise Untrustworthy("an event is too long")
                buffer = bytearray(rest)
                for line in lines:
                    if time.monotonic() - window > 1:
                        window, count = time.monotonic(), 0
                    count += 1
                    if count > MOST_EVENTS_A_SECOND:
                        raise Untrustworthy("too many events")
                    yield self._parse(line)

    @staticmethod
    def _parse(line: Sequence[int]) -> Event:
        try:
            return parse_event.validate_json(bytes(line))
        except ValidationError as error:
            raise Untrustworthy(f"not an event: {error.errors()[0]['msg']}") from error

    def stop(self) -> None:
        """End it: SIGTERM, a grace, SIGKILL. Returns when it is gone."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(self.settings.cancel_grace_seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def pause(self) -> None:
        """Ask it to save its training and stop."""
        assert self.process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"pause\n")
            self.process.stdin.flush()

    def resident_bytes(self) -> int:
        """Return the memory that its processes have resident, all together."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total

    def kill(self) -> None:
        """End it now. Safe from another thread."""
        self._signal(signal.SIGKILL)

    def status(self) -> int:
        """Return the exit status, once the pipe has ended; an engine that lingers is ended."""
        try:
            return self.process.wait(self.settings.cancel_grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def last_words(self, limit: int = 2000) -> str:
        """Return the end of what it printed."""
        with self.log.open("rb") as source:
            source.seek(max(0, self.log.stat().st_size - limit))
            return source.read().decode(errors="replace").strip()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return
