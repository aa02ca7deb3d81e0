"""Lets searches among widths take a pause and send signs of life: each may be minutes without an event."""

from collections.abc import Callable

from compression.engine import heartbeat
from compression.engine.context import StageContext
from compression.planning.search.problem import Problem, Solution
from compression.planning.search.solver import solve
from compression.planning.search.within import Solve


def beat_of(context: StageContext) -> Callable[[], None]:
    """Return what long work calls again and again. It raises Pause."""

    def beat() -> None:
        context.check_pause()
        heartbeat.beat()

    return beat


def solver_of(context: StageContext) -> Solve:
    """Return the solver, with a beat before each of the programs that a solution may take. It raises Pause."""
    beat = beat_of(context)

    def solved(problem: Problem) -> Solution:
        beat()
        return solve(problem)

    return solved
