"""Waits for work that lets other threads run, as a solver's does, and looks up meanwhile."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def awaited(work: Callable[[], Result], waiting: Callable[[], None], every: float = 1.0) -> Result:
    """Return what work returns, which runs in a thread. waiting: called before it, and each so many seconds until it is done.

    Raises what both raise. Work that `waiting` ends by an exception cannot be stopped: its thread is left, and ends with the
    process if not before.
    """
    waiting()
    results, errors = list[Result](), list[BaseException]()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as problem:
            errors.append(problem)

    thread = threading.Thread(target=run, name="awaited", daemon=True)
    thread.start()
    thread.join(every)
    while thread.is_alive():
        waiting()
        thread.join(every)
    if errors:
        raise errors[0]
    return results[0]
