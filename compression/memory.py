"""What the kernel tells of memory. Torch-free."""

from pathlib import Path


def resident() -> int:
    """Return the bytes that this process has resident now (VmRSS); 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def killed_for_memory() -> int:
    """Return how often the kernel has ended a process of this machine for want of memory; 0 where it does not tell.

    It counts before it kills, within limits of control groups too (mm/oom_kill.c): of a child that ended by SIGKILL, a larger
    number than before it started says why.
    """
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
