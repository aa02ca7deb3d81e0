"""The device that an engine's process trains on, and models that leave it for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compression.system import process


def training_device() -> torch.device:
    """Return the device of a job's models and batches: the first GPU that this process sees, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def release_device_memory() -> None:
    """Free what nothing refers to any more, on the host and on a GPU, where the allocator keeps it."""
    process.release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Move a model to the CPU within this context: artifacts are for it, and are written from and compared with its tensors."""
    device = next(model.parameters()).device
    model.cpu()
    process.release_memory()
    try:
        yield
    finally:
        model.to(device)
