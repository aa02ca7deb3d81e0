"""Lets searches among widths take a pause and send signs of life: each may be minutes without an event."""

from collections.abc import Callable, Sequence
from functools import partial

from compression.engine import heartbeat
from compression.engine.context import StageContext
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.problem import Choice, Problem, Solution, Solve
from compression.system.awaited import awaited


def beat_of(context: StageContext) -> Callable[[], None]:
    """Return what long work calls again and again. It raises Pause."""

    def beat() -> None:
        context.check_pause()
        heartbeat.beat()

    return beat


def solver_of(context: StageContext, layers: Sequence[Choice] = ()) -> Solve:
    """Return the solver, with a beat before each of the programs that a solution may take, and every second of it. It raises
    Pause. layers: the choices of whether a layer stays; those that all cost alike need no program.
    """
    beat, names = beat_of(context), [choice.name for choice in layers]

    def solved(problem: Problem) -> Solution:
        return awaited(partial(solve_alike, problem, names), beat)

    return solved
