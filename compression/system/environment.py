"""Where a job ran: versions, processor, device and threads, for the report."""

import platform

import torch

from compression.system.device import training_device
from compression.system.processor import package_version, processor

LIBRARIES = ("torch", "transformers", "onnxruntime", "tokenizers", "safetensors")


def environment() -> dict[str, str]:
    """Return the versions of the libraries and the facts of the machine that a result depends on."""
    found = {"python": platform.python_version(), **{name: package_version(name) or "none" for name in LIBRARIES}}
    found["platform"] = platform.platform()
    found["processor"] = processor()
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    device = training_device()
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found["training_threads"] = str(torch.get_num_threads())
    return found
