"""Memory figures from the kernel. Torch-free."""

from pathlib import Path

from compression.system.control_groups import OWN, ROOT, own_groups


def resident() -> int:
    """Return the resident bytes of this process now (VmRSS); 0 if the kernel does not report them."""
    return 1024 * (_number("/proc/self/status", "VmRSS:") or 0)


def _number(path: str, name: str) -> int | None:
    """Return the number after a name in a file of the kernel; None if it does not report it."""
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)


def available() -> int | None:
    """Return the bytes that machine and control group still allow, page cache counted as free; None if not reported."""
    machine = _number("/proc/meminfo", "MemAvailable:")
    rooms = [None if machine is None else 1024 * machine, _of_group()]
    return min((room for room in rooms if room is not None), default=None)


def _of_group(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the smallest free memory of this process's control group and its ancestors, in bytes."""
    rooms = (_of_folder(each) for each in own_groups(root, own))
    return min((room for room in rooms if room is not None), default=None)


def _of_folder(group: Path) -> int | None:
    try:
        most = (group / "memory.max").read_text("ascii").strip()
        if most == "max":
            return None
        files = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        taken = int((group / "memory.current").read_text("ascii")) - int(files.get("inactive_file", 0))
        return max(int(most) - taken, 0)
    except (OSError, ValueError):
        return None


def killed_for_memory() -> int:
    """Return how many out-of-memory kills the kernel counts on this machine; 0 if not reported.

    It counts before it kills, in control groups too (mm/oom_kill.c): a SIGKILL while the count rose was for memory.
    """
    return _number("/proc/vmstat", "oom_kill ") or 0
