"""Checks that the device that a job was claimed for is there. Imports torch."""

import torch

from compression.schema.errors import DeviceLost
from compression.schema.worker_device import DeviceKind


def check_claimed_device(kind: DeviceKind | None, count: int = 1) -> None:
    """Allocate on the cards that a job was claimed for. Raises DeviceLost: nothing trains for days on the CPU instead."""
    if kind != "cuda":
        return
    try:
        for number in range(count):
            torch.zeros(1, device=f"cuda:{number}")
    except (RuntimeError, AssertionError) as problem:  # the CPU build of torch asserts
        raise DeviceLost(f"the job was claimed for a GPU, and torch finds none: {str(problem)[:500]}") from problem
