"""The process between a worker and a confined process. Standard library only: it starts in a few hundredths of a second.

With bubblewrap it becomes bubblewrap. Otherwise it stays outside the confinement, as leader of the process group that it
confines: no process inside can leave the group or signal the leader, so the group ends with it, and it ends with the worker.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from workers import landlock, seccomp

CANNOT_START = 125
"""Exit status if the confinement failed; nothing was started then."""

_SET_PDEATHSIG, _SET_SECCOMP, _CAPBSET_DROP, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38  # prctl(2)


@dataclass(frozen=True)
class Plan:
    """How to confine: bubblewrap's command line or, if that is empty, the paths that Landlock leaves."""

    parent: int
    bubblewrap: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()  #: folders whose files may be written, and none made
    families: tuple[int, ...] = ()  #: of sockets, for processes that talk in bubblewrap's network, which nothing else is in

    def dump(self) -> str:
        """Serialize it for `main`."""
        return json.dumps(asdict(self))


def main() -> NoReturn:
    """Start the command of argv[2:] according to the plan in argv[1]."""
    plan, command = Plan(**json.loads(sys.argv[1])), sys.argv[2:]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if plan.bubblewrap:
            _become_bubblewrap(plan, command)
        sys.exit(_lead(plan, command))
    except (OSError, seccomp.UnknownMachine) as problem:
        sys.stderr.write(f"confinement failed: {type(problem).__name__}: {problem}\n")
        sys.exit(CANNOT_START)


def _become_bubblewrap(plan: Plan, command: list[str]) -> NoReturn:
    _die_with(plan.parent, signal.SIGKILL)
    rules = os.memfd_create("seccomp", 0)
    os.write(rules, seccomp.build_filter(seccomp.ALWAYS, families=plan.families))
    os.lseek(rules, 0, os.SEEK_SET)
    program, *options = plan.bubblewrap
    os.execv(program, [program, "--seccomp", str(rules), *options, "--", *command])  # noqa: S606


def _lead(plan: Plan, command: list[str]) -> int:
    """Start the command confined; return its exit status (128 + n for signal n) when all that it left behind is gone."""
    if os.getpgrp() != os.getpid():
        os.setsid()  # the group that ends with us must be ours alone
    signal.signal(signal.SIGUSR1, _end_all)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the child, which gets it too
    _die_with(plan.parent, signal.SIGUSR1)
    _prctl(_SET_SUBREAPER, 1)
    leader = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _die_with(leader, signal.SIGKILL)
            _confine(plan)
            os.execv(command[0], command)  # noqa: S606
        except Exception as problem:
            sys.stderr.write(f"confinement failed: {type(problem).__name__}: {problem}\n")
        finally:
            sys.stderr.flush()
            os._exit(CANNOT_START)
    # The events' pipe ends when the child closes it, so our copy must be closed.
    for entry in list(Path("/proc/self/fd").iterdir()):
        if entry.name not in {"1", "2"}:
            with suppress(OSError):  # the listing itself was one
                os.close(int(entry.name))
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    _end_rest()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _confine(plan: Plan) -> None:
    """Drop every privilege, then file access, then system calls. Nothing started from here on has more."""
    version = landlock.abi()
    _drop_capabilities()
    _prctl(_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(landlock.Grants(tuple(plan.read), tuple(plan.change), tuple(plan.write), tuple(plan.fill)))
    answers = {**seccomp.ALWAYS, **seccomp.WITHOUT_MOUNTS}
    if version < landlock.SCOPES_SIGNALS:
        answers |= dict.fromkeys(seccomp.SIGNALS, errno.EPERM)
    if version < landlock.GUARDS_TRUNCATION:
        answers["truncate"] = errno.EPERM
    filter_calls(seccomp.build_filter(answers))


def filter_calls(program: bytes) -> None:
    """Install a filter for this process and its children; none of them gains privileges from then on. Raises OSError."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_SECCOMP, 2, ctypes.byref(Program(len(program) // 8, program)))


def _drop_capabilities() -> None:
    """Without capabilities root is an ordinary user; the bounding set keeps exec from restoring them."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last one, or not permitted, and then exec cannot restore a capability either
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _die_with(parent: int, number: int) -> None:
    """Request a signal when the parent ends; exit here if it has already ended."""
    _prctl(_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit("the worker is gone")


def _end_all(_number: int, _frame: object) -> None:
    os.killpg(0, signal.SIGKILL)  # us too


def _end_rest() -> None:
    """Kill the rest of the group, except this process, which still has to return an exit status."""
    group = os.getpgrp()
    for _ in range(1000):
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        others = [pid for pid in numbers if _group_of(pid) == group]
        others.remove(os.getpid())
        if not others:
            return
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
        # This process is the parent of orphans.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    _end_all(0, None)  # it forks faster than we look; a signal to the group reaches all


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _prctl(option: int, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(argument) if isinstance(argument, int) else argument for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
