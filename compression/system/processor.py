"""The processor's name, as reports and device tables have it. Torch-free."""

import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name from the kernel, or the architecture if the kernel gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
