"""What a profile says of the machine that it was taken on. Torch-free."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from compression.schema.profile import DeviceFacts
from compression.schema.report.measurements import NotMeasured
from compression.system.processor import usable_cores
from compression.system.sensors import SYS, find_sensor

RUNTIMES = (
    "onnxruntime",
    "openvino",
    "torch",
    "transformers",
    "torchao",
    "timm",
    "compressed-tensors",
    "llama-cpp-py-sync",
    "onnxruntime-genai",
)
"""Packages that open artifacts."""


def device_facts(root: Path = SYS) -> DeviceFacts:
    """Describe this machine. root: where the system shows its sensors."""
    sensor = find_sensor(root)
    return DeviceFacts(
        machine=f"{platform.machine()} {platform.system()}",
        processor=_processor(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        runtimes=dict(filter(None, map(_installed, RUNTIMES))),
        sensor=sensor if isinstance(sensor, NotMeasured) else sensor.name,
    )


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the processor's name: of x86 from the kernel, of a board from its device tree, elsewhere from the system."""
    tree = Path("/proc/device-tree/model")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    if not names and tree.is_file():
        names = [tree.read_text("utf-8", "replace").strip("\0 ")]
    return (names[0] if names else platform.processor())[:200] or None


def _installed(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None
