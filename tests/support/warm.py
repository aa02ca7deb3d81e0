"""Warm processes: the service's own, forked from one that has imported what they import; an engine from one that has torch.

A start of the engine costs five seconds of imports, that of an upload's check one, and a suite has a hundred of each. A warm
process runs the same code with the arguments, environment, working directory and output that a fresh interpreter would have,
and says so in /proc. Engines and checks are confined by the same launcher (Landlock and seccomp), which runs them where it
would execute a fresh interpreter.
LATHE_TESTS_COLD=1 starts everything from the beginning.

    pytest → app imported (API, keeper) → torch imported (workers for jobs, and their engines)
                                        → checks imported (workers for checks, and what reads uploads, without torch)
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[2]
ROOM = "x" * 8000
"""Behind a template's arguments and in its environment: /proc shows what is written there."""
LONGEST = 1 << 17
"""Bytes of one message."""
PROGRAMS = ("app.server", "app.bootstrap", "app.quotas", "workers")
"""What is forked."""
OWN_STATE = ("PROMETHEUS_MULTIPROC_DIR",)
"""Variables that a library reads when it is imported."""
OWN_MEMORY = ("LATHE_ENGINE_MEMORY_BYTES",)
"""Where this is set an engine, or a check, is started cold: what is shared with its template would count as its own."""


class Forked:
    """A process, by the part of subprocess.Popen's interface that its users need. reap: takes its status once it has ended."""

    def __init__(self, pid: int, reap: Callable[[], int], stdin: IO[bytes] | None = None) -> None:
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._reap, self._lock, self._ended = reap, threading.Lock(), os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit status, −n for signal n, or None while it runs."""
        with self._lock:
            if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
                self.returncode = self._reap()
                os.close(self._ended)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


# The side that asks.


class Template:
    """A process that has imported what others need and is forked for them. Thread-safe."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._lock = channel, threading.Lock()

    def start(self, module: str, arguments: Sequence[str], env: Mapping[str, str], out: IO[bytes]) -> Forked:
        """Run `python -m module arguments…` in the repository, its output going to `out`, in a session of its own."""
        pid = self._ask({"start": [module, *arguments], "env": dict(env)}, out.fileno())
        return Forked(pid, lambda: self._ask({"reap": pid}))

    def further(self, level: str) -> "Template":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ask({"further": level}, theirs.fileno())
        return Template(ours)

    def _ask(self, message: dict[str, Any], *descriptors: int) -> int:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)
            return int(self._channel.recv(LONGEST))


@cache
def _app() -> Template:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {**os.environ, "ROOM": ROOM, "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000", "TOKENIZERS_PARALLELISM": "false"}
    with theirs:
        command = [sys.executable, "-m", "tests.support.warm", str(theirs.fileno()), ROOM]
        subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])  # it ends with its channel
    return Template(ours)


@cache
def _torch() -> Template:
    return _app().further("torch")


@cache
def _checks() -> Template:
    return _app().further("checks")


def template_for(module: str, arguments: Sequence[str], env: Mapping[str, str]) -> Template | None:
    """Return what such a process may be forked from, and None where it must be started cold."""
    if "LATHE_TESTS_COLD" in env or module not in PROGRAMS or any(name in env for name in OWN_STATE):
        return None
    further = {("jobs",): _torch, ("checks",): _checks} if not any(name in env for name in OWN_MEMORY) else {}
    return further.get(tuple(arguments), _app)()


# The templates.


def import_app() -> None:
    """Import all of the service that reads no setting when it is imported."""
    import app
    import workers

    late = {*PROGRAMS, "app.main", "workers.__main__", "workers.celery_app", "workers.tasks"}
    for package in (app, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in late:
                importlib.import_module(module.name)
    for name in ("uvicorn.protocols.http.h11_impl", "uvicorn.lifespan.on", "celery.bin.worker", "celery.concurrency.prefork"):
        importlib.import_module(name)


def import_torch() -> None:
    importlib.import_module("tests.support.warm_engines").prepare()


def import_checks() -> None:
    importlib.import_module("tests.support.warm_children").prepare_checks()


LEVELS = {"app": import_app, "checks": import_checks, "torch": import_torch}


def serve(channel: socket.socket, level: str) -> list[str]:
    """Fork for who asks; return, in a child, the module and the arguments that it is to run."""
    gc.disable()
    LEVELS[level]()
    keep_objects()
    gc.disable()
    while True:
        said, descriptors, _, _ = socket.recv_fds(channel, LONGEST, 1)
        if not said:
            os._exit(0)
        message = json.loads(said)
        if "reap" in message:
            channel.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(message["reap"], 0)[1]))
            continue
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            channel.close()
            if "further" in message:
                die_with_parent()
                return serve(socket.socket(fileno=descriptors[0]), message["further"])
            gc.enable()
            os.setsid()
            command = [sys.executable, "-m", *message["start"]]
            nothing = os.open(os.devnull, os.O_RDONLY)
            become(command, message["env"], ROOT, (nothing, descriptors[0], descriptors[0]))
            importlib.reload(sys.modules["app.core.crash_points"])  # it reads the environment when it is imported
            return list(message["start"])
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(b"%d" % pid)


def keep_objects() -> None:
    """Leave all that there is out of each search for garbage, and search seldom: tracing a model makes millions of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def die_with_parent() -> None:
    from compression.system import process

    process.die_with_parent()


def become(
    command: list[str], env: Mapping[str, str], folder: Path, streams: tuple[int, int, int], kept: Sequence[int] = ()
) -> None:
    """Take on what an executed program has of its own: signals, descriptors, environment, folder, and what /proc shows."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    copies = [os.dup(stream) for stream in streams]
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=True)
    close_all_but(kept)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.chdir(folder)
    random.seed()
    show(command, env)


def close_all_but(kept: Sequence[int]) -> None:
    """Close all descriptors but the standard streams and these, as executing a program would."""
    start = 3
    for descriptor in sorted(kept):
        if start < descriptor:
            os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def show(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Have /proc tell this command line and this environment, which others know processes by."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments = "\0".join(command)
    variables = "\0".join(f"{name}={value}" for name, value in env.items())
    for text, start, end in ((arguments, fields[45], fields[46]), (variables, fields[47], fields[48])):
        size = int(end) - int(start)
        ctypes.memmove(int(start), text.encode()[: size - 1].ljust(size, b"\0"), size)


def leave(code: object) -> NoReturn:
    """End this process, but for what its parent was to do at its own end."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(code or 0))


def run_module(name: str, arguments: list[str]) -> NoReturn:
    code: object = 0
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    leave(code)  # libraries in C would wait for threads of the template, which are not here


if __name__ == "__main__":
    die_with_parent()
    chosen, *rest = serve(socket.socket(fileno=int(sys.argv[1])), "app")
    run_module(chosen, rest)
