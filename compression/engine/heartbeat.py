"""Sends a heartbeat during work without progress steps, such as a calibration pass or the scoring of a large model.

The worker ends an engine that is silent for too long (`LATHE_STALL_SECONDS`). Such work consists of many layer calls, which
send the heartbeat; a process that hangs makes none.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

SECONDS = 10.0  #: interval between heartbeats: far less than the stall limit, and far more than a heartbeat costs


_beats: list[Callable[[], None]] = []


def beat() -> None:
    """Send a heartbeat if one is due. For long work without layer calls; without an open `heartbeat` it does nothing."""
    for each in _beats:
        each()


@contextmanager
def heartbeat(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` from layer calls of any model in this process, and from `beat`, at most once in SECONDS."""
    last = time.monotonic()

    def due(*_: Any) -> None:
        nonlocal last
        if torch.compiler.is_compiling():
            return  # torch cannot trace a clock: each layer's graph would break at each of its modules
        if (now := time.monotonic()) - last >= SECONDS:
            last = now
            tell()

    hook = register_module_forward_pre_hook(due)
    _beats.append(due)
    try:
        yield
    finally:
        _beats.remove(due)
        hook.remove()
