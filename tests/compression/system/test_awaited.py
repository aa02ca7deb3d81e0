"""Work in a thread is waited for, with looks meanwhile that can end the waiting."""

import threading
import time
from functools import partial

import pytest

from compression.planning.search.solver import solve
from compression.system.awaited import awaited
from tests.compression.planning.search.made_problems import chain


def nothing() -> None:
    """Wait for nothing."""


def fails() -> None:
    raise LookupError("it is not there")


def test_what_work_returns_and_raises_is_its_own() -> None:
    assert awaited(lambda: 7, nothing) == 7
    with pytest.raises(LookupError, match="not there"):
        awaited(fails, nothing)


def test_a_look_that_raises_ends_the_waiting_and_before_it_the_work_is_not_begun() -> None:
    begun, ended, looks = threading.Event(), threading.Event(), list[int]()

    def work() -> None:
        begun.set()
        ended.wait(60)

    def look() -> None:
        looks.append(1)
        if begun.is_set():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        awaited(work, look, every=0.01)
    ended.set()
    assert len(looks) > 1
    begun.clear()
    with pytest.raises(LookupError):
        awaited(work, fails)
    assert not begun.is_set()


def test_the_solver_lets_others_run() -> None:
    """If HiGHS held the interpreter, the looks would be those while its program is written, a hundredth of the time."""
    looks = list[float]()
    problem, began = chain(0, groups=20, options=8, blocks=4, share=0.4), time.monotonic()
    awaited(partial(solve, problem), lambda: looks.append(time.monotonic()), every=0.01)
    took = time.monotonic() - began
    longest = max(after - before for before, after in zip(looks, [*looks[1:], began + took], strict=True))
    assert took > 0.2, "otherwise this shows nothing"
    assert longest < took / 2
