"""The engine as a child process: confined, without our environment, read by its events, ended with all its descendants."""

import contextlib
import json
import os
import re
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
from compression.schema.errors import DiskFull
from compression.schema.events import Event, parse_event
from compression.system.host_lock import TURN_VARIABLE, WAIT_SECONDS, WAIT_VARIABLE
from workers.devices import CPU, Device
from workers.folders import Untrustworthy
from workers.limits import DISK_SHARE, taken_bytes
from workers.measuring_lock import REQUEST_FILE, MeasuringLock
from workers.sandbox import CONFINING, Sandbox, code_folder, get_sandbox
from workers.usage import Usage, find_excess, measure_usage

LONGEST_LINE = 4 << 20
"""Bytes of one event; a report of many rows and files stays far below."""
MOST_AT_ONCE, MOST_A_SECOND = 1000, 20
"""Events. A real engine sends a few per second, and the pipe's content comes at once if we were delayed. A flood that we read
slowly, because each event is stored, is a flood all the same."""
LARGEST_NUMBER = 2.0**62
SECONDS_TO_GO = 10.0
"""For the kernel to remove killed processes."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "CC", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Of the worker's environment, which its operator sets. CC names the compiler for Triton; confinement says whether it runs."""


def child_environment(folder: Path, wait_seconds: float, device: Device = CPU) -> dict[str, str]:
    """Return a child's environment: no credentials, no addresses, no home of ours. wait_seconds: for the measuring lock;
    device: the one that it sees, so that a CPU worker on a host with cards takes none.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        **device.environment,
        "HOME": str(folder),
        "TMPDIR": str(temporary),
        # The sandbox has no user database.
        "USER": "lathe",
        "LOGNAME": "lathe",
        "PYTHONPATH": str(code_folder(folder)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Two jobs must not be timed at once: the engine asks in its own folder, and its worker takes the host's lock for it.
        TURN_VARIABLE: str(folder / REQUEST_FILE),
        WAIT_VARIABLE: f"{wait_seconds:g}",
    }


def engine_command(verb: str, spec: Path, *more: str) -> list[str]:
    """Return the engine's command line. -P: modules are not imported from its working folder."""
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
    """Start a child confined to its folder, as leader of its own process group (`kill_group` ends that)."""
    return subprocess.Popen(
        sandbox.wrap(arguments, folder),
        cwd=folder,
        env=child_environment(folder, wait_seconds, sandbox.device),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Signal a child's process group. With bubblewrap SIGTERM ends it: no process in between passes the signal on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a child and its descendants."""
    signal_group(process, signal.SIGKILL)
    process.wait()


LOOK_SECONDS = 1.0
"""Interval of checking the resources of a child that answers a query."""
LONGEST_FINDING = 4 << 20
"""Bytes of the one object that a query answers."""
WRITES_MUCH = "If the files are what they should be, report it with the id, or raise the worker's LATHE_ENGINE_DISK_BYTES."


UNPRINTABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")
"""Sequences of terminals, and control characters other than tab and line feed."""
NO_MEMORY = ("memory allocation of", "bad_alloc", "out of memory")
"""What Rust and C++ print before they abort because memory ran out."""


class ChildDied(RuntimeError):
    """The child of a query was ended by a signal: `number`, with its last output."""

    def __init__(self, verb: str, number: int, last_output: str) -> None:
        super().__init__(f"{verb} was ended by {signal.Signals(number).name}: {last_output}")
        self.number = number
        self.wants_memory = number == signal.SIGABRT and any(words in last_output for words in NO_MEMORY)


class LimitExceeded(RuntimeError):
    """The child of a query exceeded a limit and was ended: `error` names the limit."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["cause"])
        self.error = error


def run_query(verb: str, spec: Path, folder: Path, settings: Settings, seconds: float, device: Device = CPU) -> bytes:
    """Run a command that answers with one JSON object; return its output, unparsed.

    Raises subprocess.TimeoutExpired after so many seconds, LimitExceeded, ChildDied, and RuntimeError if it failed or printed
    too much.
    """
    sandbox, wait_seconds = get_sandbox(settings, device), min(settings.measure_wait_seconds, seconds / 4)
    # Read through these open files: the child may replace what the names lead to.
    with (folder / "finding.json").open("w+b") as answer, (folder / "errors.log").open("w+b") as errors:
        arguments = engine_command(verb, spec, "--die-with-parent")
        most = taken_bytes(folder, sys.maxsize) + settings.engine_disk_bytes
        child = start_child(
            arguments, folder, sandbox, stdin=subprocess.DEVNULL, stdout=answer, stderr=errors, wait_seconds=wait_seconds
        )
        try:
            with MeasuringLock(folder, settings):
                status = sandbox.exit_status(_wait_within_limits(child, folder, most, settings, seconds))
        finally:
            kill_group(child)
        found = os.pread(answer.fileno(), LONGEST_FINDING + 1, 0)
        last_output = os.pread(errors.fileno(), 2000, max(0, os.fstat(errors.fileno()).st_size - 2000)).decode(errors="replace")
    if status < 0:
        raise ChildDied(verb, -status, last_output)
    if status != 0 or len(found) > LONGEST_FINDING:
        raise RuntimeError(f"{verb} ended with {status}: {last_output}")
    return found


def _wait_within_limits(child: "subprocess.Popen[bytes]", folder: Path, most: int, settings: Settings, seconds: float) -> int:
    """Wait for a child's exit status. most: bytes of its folder. Raises subprocess.TimeoutExpired, LimitExceeded."""
    deadline, disk_due = time.monotonic() + seconds, 0.0
    while True:
        left = deadline - time.monotonic()
        try:
            return child.wait(min(max(left, 0), LOOK_SECONDS))
        except subprocess.TimeoutExpired:
            if left <= LOOK_SECONDS:
                raise
        if error := find_excess(measure_usage(child.pid, 0), settings):
            raise LimitExceeded(error)
        if (began := time.monotonic()) >= disk_due:
            if _taken(folder, most) > most:
                cause = f"the files have their reader write more than {settings.engine_disk_bytes:,} bytes"
                raise LimitExceeded(DiskFull(cause, remedy=WRITES_MUCH).as_dict())
            disk_due = time.monotonic() + (time.monotonic() - began) / DISK_SHARE


def _taken(folder: Path, most: int) -> int:
    """Return the bytes of a child's folder, as `taken_bytes`. Raises LimitExceeded if the child hides them."""
    try:
        return taken_bytes(folder, most)
    except OSError as error:
        cause = f"the folder of the files' reader cannot be read: {error.strerror}"
        raise LimitExceeded(DiskFull(cause, remedy=WRITES_MUCH).as_dict()) from error


def _number(text: str) -> float:
    """Parse only numbers that both databases can store. Raises ValueError."""
    value = float(text)
    if not abs(value) < LARGEST_NUMBER:
        raise ValueError("a number that is invalid or too large")
    return value


class Engine:
    """One run of the engine. Use as a context manager: nothing of it is left running."""

    def __init__(
        self,
        spec: Path,
        folder: Path,
        settings: Settings,
        sandbox: Sandbox | None = None,
        device: Device = CPU,
        *,
        talks: bool = False,
    ) -> None:
        """talks: whether the engine has processes that train together."""
        self.settings = settings
        self.sandbox = sandbox or get_sandbox(settings, device, talks=talks)
        # Kept open: the engine may replace what its name leads to.
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
        self.pipe, self.shown, self.hidden, self.gone = reader, False, set[int](), False
        self.turns = MeasuringLock(folder, settings)
        self.orders = cast("IO[bytes]", self.process.stdin)
        os.set_blocking(reader, False)
        os.set_blocking(self.orders.fileno(), False)  # an engine that does not read must not block us

    def __enter__(self) -> Self:
        self.turns.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        self.turns.close()
        self._drain()
        os.close(self.pipe)
        self.orders.close()
        self.log.close()

    def events(self, tick: float) -> Iterator[Event | None]:
        """Yield events as they arrive, and None after each `tick` seconds without one, until the pipe ends.

        Raises Untrustworthy for a line that is too long or no event, and for a flood of events.
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
        """End it: SIGTERM, a grace period, SIGKILL. Returns when it is gone."""
        if not self.gone:
            signal_group(self.process, signal.SIGTERM)
            self._await_exit()

    def kill(self) -> None:
        """Kill it. Safe from another thread."""
        if not self.gone:
            signal_group(self.process, signal.SIGKILL)

    def status(self) -> int:
        """Return the exit status, −n for signal n, once the pipe has ended; a lingering engine is ended."""
        self._await_exit()
        return self.sandbox.exit_status(self.process.returncode)

    def _await_exit(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.settings.cancel_grace_seconds)
        self._end()

    def _end(self) -> None:
        """Kill what is left of it, and never again: once all of it is gone, its number may become another process's."""
        if not self.gone:
            kill_group(self.process)
            self.gone = True

    def usage(self) -> Usage:
        """Measure all its processes. Raises Untrustworthy if one hides its open files twice in a row, but not before."""
        found = measure_usage(self.process.pid, CONFINING[self.sandbox.level])
        if self.shown and self.hidden & found.hidden:
            raise Untrustworthy("a process hides its open files")
        self.shown, self.hidden = self.shown or found.shows, found.hidden
        return found

    def last_output(self, limit: int = 2000) -> str:
        """Return the last lines of its output, as text: without the colours and movements that a terminal would show."""
        # By position: the engine writes at our shared offset.
        size = os.fstat(self.log.fileno()).st_size
        found = os.pread(self.log.fileno(), limit, max(0, size - limit)).decode(errors="replace")
        if size > limit and "\n" in found.rstrip():
            found = found.partition("\n")[2]  # the first line is cut, perhaps within a terminal's sequence
        return UNPRINTABLE.sub("", found).strip()

    def _drain(self) -> None:
        """Wait until the engine has closed its pipe: a killed process still has to go, and may be writing until then."""
        deadline = time.monotonic() + SECONDS_TO_GO
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if selector.select(left) and not os.read(self.pipe, 1 << 16):
                    return
