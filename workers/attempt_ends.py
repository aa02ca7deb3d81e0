"""How an attempt ends before its report."""

import signal
from typing import Any


class Interrupted(Exception):
    """The engine was stopped on purpose: `reason` is lost, cancel, overdue or drain."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Failed(Exception):
    """The engine, or the check of its memory, reports why the job cannot be done as requested."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"])
        self.error = error


class Crashed(Exception):
    """The engine ended without a result, or had to be ended."""

    def __init__(self, cause: str, code: str = "engine_crashed") -> None:
        super().__init__(cause)
        self.code = code


FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""Signals that others send: what the engine last wrote says nothing about them."""


def describe_end(status: int, last_output: str) -> str:
    """Describe how the engine ended: its signal by name, or its exit status, and what it last wrote where that may say why."""
    if status < 0:
        known = -status in set(signal.Signals)
        how = f"{signal.Signals(-status).name if known else f'Signal {-status}'} ended it."
    else:
        how = f"Its exit status is {status}."
    if last_output and -status not in FROM_OUTSIDE:
        how += f" It last wrote: {last_output}"
    return how
