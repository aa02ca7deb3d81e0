"""The device that an engine's process trains on, and models that leave it for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compression.system import process

CPU, CARD = torch.device("cpu"), torch.device("cuda")


def training_device() -> torch.device:
    """Return the device of a job's models and batches: the first GPU that this process sees, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def release_device_memory() -> None:
    """Free what nothing refers to any more, on the host and on a GPU, where the allocator keeps it."""
    process.release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rest(*models: nn.Module) -> None:
    """Move models from a GPU to the host's memory until something needs them there; on a CPU nothing changes."""
    there = [model for model in models if any(parameter.device != CPU for parameter in model.parameters())]
    for model in there:
        model.cpu()
    if there:
        release_device_memory()


@contextmanager
def on_cpu(*models: nn.Module) -> Iterator[None]:
    """Move models to the CPU within this context: artifacts are for it, and are written from and compared with its tensors. A
    GPU is then free for the process that scores them, or asks lm-eval's tasks.
    """
    places = [(model, next(model.parameters()).device) for model in models]
    for model in models:
        model.cpu()
    release_device_memory()
    try:
        yield
    finally:
        for model, device in places:
            model.to(device)
