"""What runs between a worker and a confined process. Standard library alone: it starts in a few hundredths of a second.

With bubblewrap it becomes bubblewrap. Otherwise it stays, outside of the confinement, as the leader of the process group that
it confines: nobody in there can leave the group or signal us, so the group ends with us, and we end with the worker.
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
"""Exit status where the confinement could not be laid on; nothing was started then."""

_SET_PDEATHSIG, _SET_SECCOMP, _CAPBSET_DROP, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38  # prctl(2)


@dataclass(frozen=True)
class Plan:
    """How to confine: bubblewrap's command line, or where that is empty what Landlock leaves."""

    parent: int
    bubblewrap: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    def dump(self) -> str:
        """Write it as `main` reads it."""
        return json.dumps(asdict(self))


def main() -> NoReturn:
    """Start the command of argv[2:] as the plan in argv[1] says."""
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
    os.write(rules, seccomp.build_filter(seccomp.ALWAYS))
    os.lseek(rules, 0, os.SEEK_SET)
    program, *options = plan.bubblewrap
    os.execv(program, [program, "--seccomp", str(rules), *options, "--", *command])  # noqa: S606


def _lead(plan: Plan, command: list[str]) -> int:
    """Start the command confined; return its exit status, 128 + n for signal n, when all that it left behind is gone."""
    if os.getpgrp() != os.getpid():
        os.setsid()  # the group that ends with us must be ours alone
    signal.signal(signal.SIGUSR1, _end_all)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the one we lead, which gets it too
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
    # The pipe of events ends when the child's side of it does, so ours must not be there.
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
    """Drop every privilege, then files, then system calls. What is started from here on has no more."""
    version = landlock.abi()
    _drop_capabilities()
    _prctl(_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(landlock.Grants(tuple(plan.read), tuple(plan.change), tuple(plan.write)))
    answers = {**seccomp.ALWAYS, **seccomp.WITHOUT_MOUNTS}
    if version < landlock.SCOPES_SIGNALS:
        answers |= dict.fromkeys(seccomp.SIGNALS, errno.EPERM)
    if version < landlock.GUARDS_TRUNCATION:
        answers["truncate"] = errno.EPERM
    filter_calls(seccomp.build_filter(answers))


def filter_calls(program: bytes) -> None:
    """Lay a filter on this process and what it starts; none of them gains privileges from then on. Raises OSError."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_SECCOMP, 2, ctypes.byref(Program(len(program) // 8, program)))


def _drop_capabilities() -> None:
    """Root without capabilities is a user like others; the bounding set keeps exec from giving them back."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last one, or we have no right to, and then no capability that exec could give back
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _die_with(parent: int, number: int) -> None:
    """Ask for a signal when the parent ends; end here if it has already."""
    _prctl(_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit("the worker is gone")


def _end_all(_number: int, _frame: object) -> None:
    os.killpg(0, signal.SIGKILL)  # us too


def _end_rest() -> None:
    """Kill what is left of the group, but for us: we still have an exit status to tell."""
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
        # Whose parent is gone has us for a parent.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    _end_all(0, None)  # it forks faster than we look; a signal to the group misses nobody


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
