"""Warm children: a worker forks what it would have its launcher execute in a fresh interpreter. Torch-free."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from compression.__main__ import MODULES, main
from compression.modalities.registry import modality_of
from compression.schema.tasks import TASKS
from compression.system.host_lock import WAIT_SECONDS
from tests.support.warm import Forked, become, leave, show
from workers import engine, launcher, sandbox


def prepare_checks() -> None:
    """Import what the check of an upload does, and rehearse none: threads that one leaves would be missing after a fork."""
    import_module(MODULES["validate"])
    for task in TASKS:
        modality_of(task)
    # A check imports the rest when it begins; pyarrow imports numpy.ma at the first column.
    for name in ("compression.modalities.text.dataset_check", "compression.modalities.image.dataset_check", "numpy.ma"):
        import_module(name)
    fork("validate")


def fork(verb: str) -> None:
    """Have workers fork their children of this verb where Landlock confines them."""
    if sandbox.find_obstacle("landlock+seccomp") is None:
        sandbox.STRONGEST_FIRST = ("landlock+seccomp",)
        engine.start_child = started_by(engine.start_child, verb)


def started_by(cold: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """Wrap `workers.engine.start_child`: what has this verb is forked, by the launcher that would execute it."""

    def start(
        arguments: Sequence[str],
        folder: Path,
        sandbox: Any,
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        pass_fds: tuple[int, ...] = (),
        **more: Any,
    ) -> Any:
        if arguments[1:5] != ["-P", "-m", "compression", verb] or sandbox.level != "landlock+seccomp":
            return cold(arguments, folder, sandbox, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, **more)
        env = engine.child_environment(folder, more.get("wait_seconds", WAIT_SECONDS), sandbox.device)
        wrapped = sandbox.wrap(arguments, folder)
        reader, writer = os.pipe() if stdin == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), None)
        pid = os.fork()
        if pid == 0:
            run_launcher(wrapped, env, folder, (reader, stdout.fileno(), stderr.fileno()), pass_fds)
        os.close(reader)
        orders = None if writer is None else os.fdopen(writer, "wb", buffering=0)
        return Forked(pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), orders)

    return start


def run_launcher(
    wrapped: list[str], env: dict[str, str], folder: Path, streams: tuple[int, int, int], kept: Sequence[int]
) -> NoReturn:
    """Be the launcher; where it executes the engine, be that."""
    try:
        os.setsid()
        become(wrapped, env, folder, streams, kept)
        # The launcher's own arguments stand behind `-c START HOME`.
        sys.argv = [wrapped[0], *wrapped[6:]]
        os.execv = run_engine
        launcher.main()
    except SystemExit as ended:
        leave(ended.code)
    except BaseException:
        traceback.print_exc()
    leave(1)


def run_engine(_program: str, command: list[str]) -> NoReturn:
    """Be the engine that this command line names, confined already."""
    try:
        show(command, dict(os.environ))
        sys.stdout.reconfigure(line_buffering=True)
        leave(main(command[4:]))
    except SystemExit as ended:
        leave(ended.code)
    except BaseException:
        traceback.print_exc()
    leave(1)
