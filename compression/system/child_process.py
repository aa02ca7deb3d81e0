"""Runs an engine command in a fresh process and reads its output lines: both ends. Torch-free."""

import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

import compression
from compression.schema.config import Config
from compression.system.memory import killed_for_memory
from compression.system.process import private_channel

LAST_WORDS = 2000
"""Bytes of a failed child's log that its error includes."""
OUT_OF_MEMORY = 4
"""Exit code of a child that ran out of memory."""
SECONDS_BETWEEN = 0.5
"""A step that follows sooner than this is not reported, unless it is the last."""


class Step(Config):
    """The progress of a child."""

    done: int
    total: int


class ChildFailed(RuntimeError):
    """A child of the engine ended without a result: a bug or the machine, not something the user can fix."""


class ChildLate(ChildFailed):
    """A child exceeded its time limit."""


class ChildOutOfMemory(ChildFailed):
    """A child ran out of memory: it reported so itself, or the kernel killed it."""


def start(
    arguments: list[str], env: dict[str, str], errors: IO[bytes] | None, *, asked: bool = False
) -> "subprocess.Popen[bytes]":
    """Start `python -m compression arguments…` in a fresh interpreter, its output in a pipe. errors: None, where this process's
    go. asked: whether its input is a pipe, too.
    """
    command = [sys.executable, "-m", "compression", *arguments]
    given = subprocess.PIPE if asked else subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdin=given, stdout=subprocess.PIPE, stderr=errors)


def child_lines(
    command: str,
    spec: Config,
    *,
    timeout: float = math.inf,
    silence: float = math.inf,
    waiting: Callable[[], None] = lambda: None,
) -> Generator[str, None, None]:
    """Run `python -m compression <command> SPEC.json` and yield each line of its standard output as it arrives.

    The child is killed if this process dies or stops iterating. waiting: called once per second without output; an exception
    that it raises ends the child. Raises ChildFailed if the child ends with an error, ChildLate if it takes longer than
    `timeout` seconds or says nothing for `silence` seconds, ChildOutOfMemory if it ran out of memory.
    """
    before, end = killed_for_memory(), time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="lathe-") as folder:
        path, log = Path(folder) / "spec.json", Path(folder) / "log"
        path.write_text(spec.model_dump_json(), "utf-8")
        with log.open("wb") as errors:
            child = start([command, "--die-with-parent", str(path)], environment(), errors)
        try:
            assert child.stdout is not None  # noqa: S101
            with child.stdout as pipe:
                yield from _lines(pipe, end, silence, waiting)
            left = min(max(end - time.monotonic(), 1), silence)
            code = child.wait(timeout=None if left == math.inf else left)
        except (TimeoutError, subprocess.TimeoutExpired) as problem:
            late = time.monotonic() >= end or silence == math.inf
            told = f"took longer than {timeout:.0f} s" if late else f"said nothing for {silence:.0f} s"
            raise ChildLate(f"{command} {told}") from problem
        finally:
            child.kill()
            child.wait()
        if code != 0:
            # Any process may send SIGKILL: it means lack of memory only if the kernel counted an out-of-memory kill meanwhile.
            ended_for_it = code == -signal.SIGKILL and killed_for_memory() > before
            kind = ChildOutOfMemory if code == OUT_OF_MEMORY or ended_for_it else ChildFailed
            raise kind(f"{command} ended with {code}: {log.read_bytes()[-LAST_WORDS:].decode('utf-8', 'replace')}")


def telling() -> Callable[[Config], None]:
    """Take over standard output, in a child, and return a function that writes one result to it."""
    channel, last = private_channel(), -SECONDS_BETWEEN

    def report(result: Config) -> None:
        nonlocal last
        now = time.monotonic()
        if isinstance(result, Step) and now - last < SECONDS_BETWEEN and result.done < result.total:
            return
        last = now
        print(result.model_dump_json(), file=channel)

    return report


def _lines(pipe: IO[bytes], end: float, silence: float, waiting: Callable[[], None]) -> Iterator[str]:
    """Yield whole lines until the pipe is closed. Raises TimeoutError if it is still open at `end` of the monotonic clock, or
    silent for so many seconds.
    """
    rest, heard = b"", time.monotonic()
    while (left := min(end, heard + silence) - time.monotonic()) > 0:
        if not select.select([pipe], [], [], min(left, 1.0))[0]:
            waiting()
            continue
        data, heard = os.read(pipe.fileno(), 1 << 16), time.monotonic()
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)
    raise TimeoutError


def environment() -> dict[str, str]:
    """Return the variables of a child: it works offline, and finds this package."""
    # The child finds the package even if we were started from its folder without installing it.
    home = str(Path(compression.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
