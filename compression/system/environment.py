"""Where a job ran: versions, processor, device and threads, for the report."""

import platform

import torch

from compression.system.processor import package_version, processor

LIBRARIES = ("torch", "transformers", "onnxruntime", "tokenizers", "safetensors")


def environment() -> dict[str, str]:
    """Return the versions of the libraries and the facts of the machine that a result depends on."""
    found = {"python": platform.python_version(), **{name: package_version(name) or "none" for name in LIBRARIES}}
    found["platform"] = platform.platform()
    found["processor"] = processor()
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["training_threads"] = str(torch.get_num_threads())
    return found
