"""Runs the parts of a transfer several at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed


def run_all(tasks: Iterable[Callable[[], object]], at_once: int, stop: Callable[[], object]) -> None:
    """Run the tasks in threads. The first failure calls `stop`, cancels what has not begun, and is raised."""
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            stop()
            for future in running:
                future.cancel()
            raise
