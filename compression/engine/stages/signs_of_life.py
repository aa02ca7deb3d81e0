"""Lets searches among widths take a pause and send signs of life: each may be minutes without an event."""

from collections.abc import Callable
from functools import partial

from compression.engine import heartbeat
from compression.engine.context import StageContext
from compression.planning.search.problem import Problem, Solution, Solve
from compression.planning.search.solving import solver_for
from compression.planning.search.space import SearchSpace
from compression.system.awaited import awaited


def beat_of(context: StageContext) -> Callable[[], None]:
    """Return what long work calls again and again. It raises Pause."""

    def beat() -> None:
        context.check_pause()
        heartbeat.beat()

    return beat


def solver_of(context: StageContext, space: SearchSpace) -> Solve:
    """Return the solver of a space, with a beat before each of the programs that a solution may take, and every second of it.
    It raises Pause.
    """
    beat, solve = beat_of(context), solver_for(space)

    def solved(problem: Problem) -> Solution:
        return awaited(partial(solve, problem), beat)

    return solved
