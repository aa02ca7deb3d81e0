"""How an attempt ends before its report."""

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
