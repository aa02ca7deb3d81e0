"""The engine as a child process: confined, with a scrubbed environment, read by its events, ended with all that it started."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from pydantic import ValidationError

from app.core.settings import Settings
from compression.schema.events import Event, parse_event
from compression.system.host_lock import TURN_VARIABLE, WAIT_SECONDS, WAIT_VARIABLE
from workers.folders import Untrustworthy
from workers.measuring_lock import REQUEST_FILE, MeasuringLock
from workers.sandbox import CONFINING, Sandbox, code_folder, get_sandbox
from workers.usage import Usage, find_excess, measure_usage

LONGEST_LINE = 4 << 20
"""Bytes of one event; a report of many rows and files stays far below."""
MOST_AT_ONCE, MOST_A_SECOND = 1000, 20
"""Events. A real engine has a few a second, and what the pipe holds comes at once when we were held up; a flood that we read
slowly, because each is stored, is a flood all the same."""
LARGEST_NUMBER = 2.0**62
SECONDS_TO_GO = 10.0
"""For the kernel to take away what was killed."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def child_environment(folder: Path, wait_seconds: float) -> dict[str, str]:
    """Return what a child may know: no credential, no address, no home of ours. wait_seconds: for its turn to measure."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "HOME": str(folder),
        "TMPDIR": str(temporary),
        # There is no list of users in there to ask.
        "USER": "lathe",
        "LOGNAME": "lathe",
        "PYTHONPATH": str(code_folder(folder)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Two jobs must not be timed at once: it asks in its own folder, and its worker takes the host's lock for it.
        TURN_VARIABLE: str(folder / REQUEST_FILE),
        WAIT_VARIABLE: f"{wait_seconds:g}",
    }


def engine_command(verb: str, spec: Path, *more: str) -> list[str]:
    """Return the command line of the engine. -P: the folder that it runs in is no place to import from."""
    return [sys.executable, "-P", "-m", "compression", verb, str(spec), *more]


def start_child(
    arguments: Sequence[str],
    folder: Path,
    sandbox: Sandbox,
    *,
    stdin: int,
    stdout: IO[bytes],
    stderr: IO[bytes],
    pass_fds: tuple[int, ...] = (),
    wait_seconds: float = WAIT_SECONDS,
) -> "subprocess.Popen[bytes]":
    """Start a child confined to its folder, as the leader of a group of its own (`end` ends that)."""
    return subprocess.Popen(
        sandbox.wrap(arguments, folder),
        cwd=folder,
        env=child_environment(folder, wait_seconds),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Signal all that belongs to a child. With bubblewrap SIGTERM is the end: there is nobody in between to pass it on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a child and all that it started."""
    signal_group(process, signal.SIGKILL)
    process.wait()


LOOK_SECONDS = 1.0
"""Between two looks at what a child takes that is to answer."""
LONGEST_FINDING = 4 << 20
"""Bytes of the one object that a command answers."""


NO_MEMORY = ("memory allocation of", "bad_alloc", "out of memory")
"""What Rust and C++ print before they abort for want of memory."""


class ChildDied(RuntimeError):
    """A child that is to answer was ended by a signal: `number`, with what it printed last."""

    def __init__(self, verb: str, number: int, said: str) -> None:
        super().__init__(f"{verb} was ended by {signal.Signals(number).name}: {said}")
        self.number = number
        self.wants_memory = number == signal.SIGABRT and any(words in said for words in NO_MEMORY)


class LimitExceeded(RuntimeError):
    """A child that is to answer took more than it may, and was ended: `error` says of what."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["cause"])
        self.error = error


def run_query(verb: str, spec: Path, folder: Path, settings: Settings, seconds: float) -> bytes:
    """Run a command that answers with one JSON object; return what it printed, unread.

    Raises subprocess.TimeoutExpired after so many seconds, TookTooMuch, ChildDied, RuntimeError where it ended badly or said
    too much.
    """
    sandbox, wait_seconds = get_sandbox(settings), min(settings.measure_wait_seconds, seconds / 4)
    # Read through what was opened here: what the names lead to later is the child's to choose.
    with (folder / "finding.json").open("w+b") as answer, (folder / "errors.log").open("w+b") as errors:
        arguments = engine_command(verb, spec, "--die-with-parent")
        child = start_child(
            arguments, folder, sandbox, stdin=subprocess.DEVNULL, stdout=answer, stderr=errors, wait_seconds=wait_seconds
        )
        try:
            with MeasuringLock(folder, settings):
                status = sandbox.exit_status(_watched(child, settings, seconds))
        finally:
            kill_group(child)
        found = os.pread(answer.fileno(), LONGEST_FINDING + 1, 0)
        said = os.pread(errors.fileno(), 2000, max(0, os.fstat(errors.fileno()).st_size - 2000)).decode(errors="replace")
    if status < 0:
        raise ChildDied(verb, -status, said)
    if status != 0 or len(found) > LONGEST_FINDING:
        raise RuntimeError(f"{verb} ended with {status}: {said}")
    return found


def _watched(child: "subprocess.Popen[bytes]", settings: Settings, seconds: float) -> int:
    """Wait for a child's exit status. Raises subprocess.TimeoutExpired, TookTooMuch."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            return child.wait(min(max(left, 0), LOOK_SECONDS))
        except subprocess.TimeoutExpired:
            if left <= LOOK_SECONDS:
                raise
        if error := find_excess(measure_usage(child.pid, 0), settings):
            raise LimitExceeded(error)


def _number(text: str) -> float:
    """Take only numbers that both databases can keep. Raises ValueError."""
    value = float(text)
    if not abs(value) < LARGEST_NUMBER:
        raise ValueError("a number that is none, or beyond all bounds")
    return value


class Engine:
    """One run of the engine. Use as a context manager: whatever happens, nothing of it is left running."""

    def __init__(self, spec: Path, folder: Path, settings: Settings, sandbox: Sandbox | None = None) -> None:
        self.settings = settings
        self.sandbox = sandbox or get_sandbox(settings)
        # Kept open: what its name leads to later is the engine's to choose.
        self.log = (folder / "engine.log").open("w+b")
        reader, writer = os.pipe()
        try:
            self.process = start_child(
                engine_command("run", spec, "--events-fd", str(writer), "--die-with-parent"),
                folder,
                self.sandbox,
                stdin=subprocess.PIPE,
                stdout=self.log,
                stderr=self.log,
                pass_fds=(writer,),
                wait_seconds=settings.measure_wait_seconds,
            )
        except BaseException:
            os.close(reader)
            self.log.close()
            raise
        finally:
            os.close(writer)
        self.pipe, self.shown, self.hidden = reader, False, set[int]()
        self.turns = MeasuringLock(folder, settings)
        self.orders = cast("IO[bytes]", self.process.stdin)
        os.set_blocking(reader, False)
        os.set_blocking(self.orders.fileno(), False)  # an engine that does not read must not hold us up

    def __enter__(self) -> Self:
        self.turns.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        kill_group(self.process)
        self.turns.close()
        self._drain()
        os.close(self.pipe)
        self.orders.close()
        self.log.close()

    def events(self, tick: float) -> Iterator[Event | None]:
        """Yield events as they come, and None after each `tick` seconds without one; ends when the pipe does.

        Raises Untrustworthy for a line that is too long, is no event, or one of a flood.
        """
        buffer = bytearray()
        allowed, counted = float(MOST_AT_ONCE), time.monotonic()
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
                    passed, counted = time.monotonic() - counted, time.monotonic()
                    allowed = min(allowed + passed * MOST_A_SECOND, MOST_AT_ONCE) - 1
                    if allowed < 0:
                        raise Untrustworthy("too many events")
                    yield self._parse(line)

    @staticmethod
    def _parse(line: Sequence[int]) -> Event:
        try:
            json.loads(bytes(line), parse_constant=_number, parse_float=_number, parse_int=_number)
            return parse_event.validate_json(bytes(line))
        except ValidationError as error:
            raise Untrustworthy(f"not an event: {error.errors()[0]['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise Untrustworthy(f"not an event: {error}") from error

    def pause(self) -> None:
        """Ask it to save its training and stop."""
        with contextlib.suppress(BrokenPipeError):
            self.orders.write(b"pause\n")
            self.orders.flush()

    def stop(self) -> None:
        """End it: SIGTERM, a grace, SIGKILL. Returns when it is gone."""
        signal_group(self.process, signal.SIGTERM)
        try:
            self.process.wait(self.settings.cancel_grace_seconds)
        except subprocess.TimeoutExpired:
            kill_group(self.process)

    def kill(self) -> None:
        """End it now. Safe from another thread."""
        signal_group(self.process, signal.SIGKILL)

    def status(self) -> int:
        """Return the exit status, −n for signal n, once the pipe has ended; an engine that lingers is ended."""
        try:
            code = self.process.wait(self.settings.cancel_grace_seconds)
        except subprocess.TimeoutExpired:
            kill_group(self.process)
            code = self.process.returncode
        return self.sandbox.exit_status(code)

    def usage(self) -> Usage:
        """Look at what all its processes take. Raises Untrustworthy where one hides it at two looks, and did not before."""
        found = measure_usage(self.process.pid, CONFINING[self.sandbox.level])
        if self.shown and self.hidden & found.hidden:
            raise Untrustworthy("a process does not show what it has open")
        self.shown, self.hidden = self.shown or found.shows, found.hidden
        return found

    def last_output(self, limit: int = 2000) -> str:
        """Return the end of what it printed."""
        # At a place, not from one: the engine writes where our shared offset is.
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), limit, max(0, size - limit)).decode(errors="replace").strip()

    def _drain(self) -> None:
        """Wait until the engine let go of its pipe: what a signal has killed still has to go, and may be writing till then."""
        deadline = time.monotonic() + SECONDS_TO_GO
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if selector.select(left) and not os.read(self.pipe, 1 << 16):
                    return
