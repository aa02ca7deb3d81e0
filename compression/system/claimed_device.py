"""Checks that the device that a job was claimed for is there. Imports torch."""

import torch

from compression.schema.errors import DeviceLost
from compression.schema.worker_device import DeviceKind


def check_claimed_device(kind: DeviceKind | None, count: int = 1) -> None:
    """Allocate on the first card that a job was claimed for, and count the others, on which the processes that train there
    allocate: a context of this one would take some hundred megabytes of each. Raises DeviceLost: nothing trains for days on the
    CPU instead.
    """
    if kind != "cuda":
        return
    try:
        torch.zeros(1, device="cuda:0")
    except (RuntimeError, AssertionError) as problem:  # the CPU build of torch asserts
        raise DeviceLost(f"the job was claimed for a GPU, and torch finds none: {str(problem)[:500]}") from problem
    if (found := torch.cuda.device_count()) < count:
        raise DeviceLost(f"the job was claimed for {count} GPUs, and torch finds {found}")
