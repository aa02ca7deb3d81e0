"""Work in a thread is waited for, with looks meanwhile that can end the waiting."""

import threading
from functools import partial
from typing import Any

import pytest
from scipy.optimize import milp

from compression.planning.search import solver
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


def test_the_solver_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If HiGHS held the interpreter, there would be a look or two while it works: as it is called, and as it returns."""
    working, looks = threading.Event(), list[bool]()

    def flagged(*given: Any, **named: Any) -> Any:
        working.set()
        try:
            return milp(*given, **named)
        finally:
            working.clear()

    monkeypatch.setattr(solver, "milp", flagged)
    problem = chain(0, groups=20, options=8, blocks=4, share=0.4)
    awaited(partial(solver.solve, problem), lambda: looks.append(working.is_set()), every=0.005)
    assert sum(looks) > 4
