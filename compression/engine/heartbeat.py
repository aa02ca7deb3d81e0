"""A sign of life from work that has no steps to tell: a calibration pass over long rows, a large model asked for its score.

Whoever runs the engine ends one that says nothing for long (`LATHE_STALL_SECONDS`). Such work is many calls of layers, so every
call of a layer is a place to say that it goes on; a process that hangs calls none.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

SECONDS = 10.0
"""Between two signs: far less than anyone waits before an engine is ended, and far more than a sign costs."""


@contextmanager
def heartbeat(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` where layers are called, of any model in this process, but once in SECONDS at the most."""
    last = time.monotonic()

    def beat(*_: Any) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SECONDS:
            last = now
            tell()

    hook = register_module_forward_pre_hook(beat)
    try:
        yield
    finally:
        hook.remove()
