"""Resource usage of an engine's processes together: their memory, including memory that none has mapped, and their number.

Shared memory (a memfd, an anonymous mapping that processes share) belongs to all that keep it open or mapped, and is in
nobody's resident size once it is written and not touched. So its objects are found and counted once each.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psutil

from app.core.failures import describe_failure
from app.core.settings import Settings
from compression.schema.errors import OutOfMemory
from workers.limits import BLOCK, engine_memory

MOST_DESCRIPTORS = 100_000
"""Of all processes together; more are not examined."""
_STATUS = re.compile(rb"^(State|Threads|RssAnon|RssFile|RssShmem):\s*(\S+)", re.MULTILINE)
_SharedObject = tuple[int, int]
"""Device and inode."""


@dataclass
class Usage:
    """The result of one measurement."""

    processes: int = 0
    threads: int = 0
    private_bytes: int = 0  #: resident, outside shared objects
    mapped_bytes: int = 0  #: resident, of shared objects; pages that processes share count for each
    descriptors: int = 0
    shared: dict[_SharedObject, int] = field(default_factory=dict)  #: size of each object in bytes
    shows: bool = False  #: whether a confined process shows its open files
    hidden: set[int] = field(default_factory=set)  #: confined processes that do not

    @property
    def memory_bytes(self) -> int:
        """The sum."""
        return self.private_bytes + max(self.mapped_bytes, sum(self.shared.values()))


def measure_usage(leader: int, confining: int) -> Usage:
    """Measure a process and its descendants. What ends meanwhile does not count.

    confining: generations that set up the confinement, whose privileges may hide them from others.
    """
    found = Usage()
    for depth, pid in _tree(leader):
        with suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 (many, once a second)
                status = dict(_STATUS.findall(file.read()))
            found.processes += 1
            found.threads += int(status[b"Threads"])
            if status[b"State"] in {b"Z", b"X"}:
                continue
            found.private_bytes += 1024 * (int(status.get(b"RssAnon", 0)) + int(status.get(b"RssFile", 0)))
            found.mapped_bytes += 1024 * int(status.get(b"RssShmem", 0))
            try:
                _add_open(pid, found)
                _add_mapped(pid, found)
                found.shows = found.shows or depth >= confining
            except PermissionError:
                if depth >= confining:
                    found.hidden.add(pid)
    return found


def find_excess(found: Usage, settings: Settings) -> dict[str, Any] | None:
    """Return the error of an engine that exceeds a limit, or None.

    Numbers first: pages shared by a crowd of processes count for each of them.
    """
    for number, most, what in (
        (found.processes, settings.engine_processes, "processes, the limit is LATHE_ENGINE_PROCESSES"),
        (found.threads, settings.engine_tasks, "threads, the limit is LATHE_ENGINE_TASKS"),
        (found.descriptors, MOST_DESCRIPTORS, "open files, the limit is"),
    ):
        if number > most:
            return describe_failure("too_many_processes", f"It has {number:,} {what} {most:,}.")
    limit = engine_memory(settings)
    if found.memory_bytes > limit:
        cause = f"the job took {found.memory_bytes:,} bytes of memory, the limit is {limit:,}"
        return OutOfMemory(cause, param="recipe.train").as_dict()
    return None


def _tree(leader: int) -> Iterator[tuple[int, int]]:
    """Yield (generations from the leader, process id)."""
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process.pid)
    generation = [leader]
    depth = 0
    while generation:
        yield from ((depth, pid) for pid in generation)
        generation = [child for pid in generation for child in children.get(pid, ())]
        depth += 1


def _add_open(pid: int, found: Usage) -> None:
    """Add the shared objects that a process has open. Raises PermissionError if it does not show them."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            found.descriptors += 1
            if found.descriptors > MOST_DESCRIPTORS:
                return
            with suppress(FileNotFoundError):
                about = os.stat(entry.path)  # noqa: PTH116
                if about.st_dev in _devices():
                    found.shared[about.st_dev, about.st_ino] = max(about.st_blocks * 512, BLOCK)


def _add_mapped(pid: int, found: Usage) -> None:
    """Add the shared objects that a process has mapped and perhaps closed. Raises PermissionError."""
    with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123
        lines = file.read().splitlines()
    names = {f" {os.major(device):02x}:{os.minor(device):02x} ".encode(): device for device in _devices()}
    for line in lines:
        for name, device in names.items():
            if name not in line:
                continue
            place, _, _, _, inode, *_ = line.split(None, 5)
            known = (device, int(inode))
            start, end = (int(side, 16) for side in place.split(b"-"))
            try:
                blocks = os.stat(f"/proc/{pid}/map_files/{start:x}-{end:x}").st_blocks  # noqa: PTH116
                found.shared[known] = max(blocks * 512, BLOCK)
            except PermissionError:  # measuring what is only mapped needs a privilege; else it counts as full
                found.shared[known] = max(found.shared.get(known, 0), end - start)
            except FileNotFoundError:
                continue


@cache
def _devices() -> frozenset[int]:
    """Return the device numbers of the kernel's own file systems for shared memory."""
    found = set()
    for flags in (0, getattr(os, "MFD_HUGETLB", 0)):
        with suppress(OSError, AttributeError):
            probe = os.memfd_create("probe", flags | os.MFD_CLOEXEC)
            found.add(os.fstat(probe).st_dev)
            os.close(probe)
    return frozenset(found)
