"""A child that tries to get out: run with a JSON list of attempts, it prints what became of each. Standard library alone."""

import ctypes
import fcntl
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def connect(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(5)
        end.connect(address)


def call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


ATTEMPTS: dict[str, Callable[..., object]] = {
    "read": lambda path: Path(path).read_bytes()[:1],
    "list": lambda path: sorted(entry.name for entry in Path(path).iterdir()),
    "open to write": lambda path: os.close(os.open(path, os.O_WRONLY)),
    "create": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)),
    "truncate": lambda path: os.truncate(path, Path(path).stat().st_size),
    "empty by opening": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "empty by the fourth mode": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_RDWR | os.O_TRUNC)),
    "link to": lambda path: Path("stolen").hardlink_to(path),
    "move in": lambda path: Path(path).rename("moved"),
    "chmod": lambda path: Path(path).chmod(0o777),
    "set ids": lambda path: Path(path).chmod(0o6755),
    "set ids of what is open": lambda path: os.fchmod(os.open(path, os.O_RDONLY), 0o6755),
    "make with ids": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o6755)),
    "make a node with ids": lambda path: os.mknod(path, 0o106755),
    "TCP": lambda port: connect(socket.AF_INET, ("127.0.0.1", port)),
    "Unix": lambda path: connect(socket.AF_UNIX, path),
    "abstract": lambda name: connect(socket.AF_UNIX, "\0" + name),
    "pair": lambda: [end.close() for end in socket.socketpair()],
    "signal": lambda pid: os.kill(pid, 0),
    "signal by a file": lambda pid: fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, pid),
    "trace": lambda pid: call("ptrace", 16, pid, 0, 0),
    "unshare": lambda: call("unshare", 0x10000000),
    "leave the group": lambda: os.setpgid(0, 0),
    "limit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
    "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "disk priority": lambda pid: call("syscall", {"x86_64": 251, "aarch64": 30}[os.uname().machine], 1, pid, 3 << 13),
    "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
    "cores": lambda pid: os.sched_setaffinity(pid, [min(os.sched_getaffinity(0))]),
    "descriptors": lambda: sorted(entry.name for entry in Path("/proc/self/fd").iterdir()),
    "processes": lambda: [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()],
    "mounts": lambda: [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[5].startswith("rw")
    ],
    "privileges": lambda: [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")],
}


def main() -> None:
    for name, *arguments in json.loads(sys.argv[1]):
        try:
            became = {"done": repr(ATTEMPTS[name](*arguments))}
        except OSError as refusal:
            became = {"refused": str(refusal)}
        sys.stdout.write(json.dumps(became) + "\n")


if __name__ == "__main__":
    main()
