"""The control groups of this process (kernel, cgroup-v2.rst): where containers' limits are. Torch-free."""

from collections.abc import Iterator
from math import ceil
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def own_groups(root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """Yield the folders of this process's control group and its ancestors."""
    try:
        name = next((line[3:] for line in own.read_text("ascii").splitlines() if line.startswith("0::")), "")
    except (OSError, ValueError):
        name = ""
    place = root / name.strip("/")  # in a container's own namespace it is root itself
    yield from (each for each in (place, *place.parents) if each.is_relative_to(root))


def allowed_cores(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return how many cores' time the groups allow, rounded up; None: they set no limit, or none can be read."""
    return min((most for group in own_groups(root, own) if (most := _quota(group)) is not None), default=None)


def _quota(group: Path) -> int | None:
    try:
        quota, period = (group / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else max(ceil(int(quota) / int(period)), 1)
    except (OSError, ValueError, ZeroDivisionError):
        return None
