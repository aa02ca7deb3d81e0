"""Checks that the device that a job was claimed for is there. Imports torch."""

import torch

from compression.schema.errors import DeviceLost
from compression.schema.worker_device import DeviceKind


def check_claimed_device(kind: DeviceKind | None) -> None:
    """Allocate on the card that a job was claimed for. Raises DeviceLost: nothing trains for days on the CPU instead."""
    if kind != "cuda":
        return
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as problem:  # the CPU build of torch asserts
        raise DeviceLost(f"the job was claimed for a GPU, and torch finds none: {str(problem)[:500]}") from problem
