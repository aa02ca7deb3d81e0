"""The processor, and the runtimes' versions, as reports and device tables have them. Torch-free."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compression.system.control_groups import allowed_cores

CPU = Path("/proc/cpuinfo")
LONGEST = 200  #: characters of a name
CHIP = ("CPU implementer", "CPU part", "CPU variant")
"""What ARM's kernels say of a core in place of a name."""
TIMED = ("onnxruntime", "openvino")
"""Packages of the runtimes that device tables time."""
NEEDED = {"AVX2": {"avx2", "fma"}, "AVX512": {"avx512vl", "avx512bw", "avx512dq", "fma"}}
"""Flags of the kernel that torch's instruction sets of x86 need."""


def processor(cpuinfo: Path = CPU) -> str:
    """Return the processor's name from the kernel; where ARM's has none, the architecture and the numbers of each kind of core.
    If a kernel has neither, the architecture.
    """
    cores = list(_cores(cpuinfo))
    named = next((core["model name"] for core in cores if core.get("model name")), None)
    if named is not None:
        return named[:LONGEST]
    kinds = sorted({" ".join(f"{key.split()[1]} {core[key]}" for key in CHIP if key in core) for core in cores} - {""})
    return " ".join([platform.machine(), ", ".join(kinds)]).strip()[:LONGEST]


def possible_instructions(cpuinfo: Path = CPU) -> frozenset[str] | None:
    """Return which instruction sets torch may name on this machine; None where the kernel lists no flags of x86."""
    flags = next((set(core["flags"].split()) for core in _cores(cpuinfo) if "flags" in core), None)
    if flags is None:
        return None
    return frozenset({"DEFAULT", "NO AVX", *(name for name, needed in NEEDED.items() if needed <= flags)})


def runtime_versions() -> dict[str, str]:
    """Return the versions of the installed runtimes that device tables time, by name."""
    return {name: found for name in TIMED if (found := package_version(name)) is not None}


def package_version(name: str) -> str | None:
    """Return the version of an installed package, or of its build for GPUs (onnxruntime-gpu); None if there is neither."""
    for each in (name, f"{name}-gpu"):
        try:
            return version(each)
        except PackageNotFoundError:
            continue
    return None


def usable_cores() -> int:
    """Count the cores whose time this process may use: its affinity's, and no more than its container's limit."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, allowed_cores() or here)


def _cores(cpuinfo: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of each core by their names."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for core in text.split("\n\n"):
        pairs = (line.partition(":") for line in core.splitlines() if ":" in line)
        yield {name.strip(): value.strip() for name, _, value in pairs}
