"""Where a job ran: versions, processor, device and threads, for the report."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("torch", "transformers", "onnxruntime", "tokenizers", "safetensors")


def environment() -> dict[str, str]:
    """Return the versions of the libraries and the facts of the machine that a result depends on."""
    found = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    found["platform"] = platform.platform()
    found["processor"] = processor()
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["training_threads"] = str(torch.get_num_threads())
    return found


def processor() -> str:
    """Return the processor's name from the kernel, or the architecture if the kernel gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
