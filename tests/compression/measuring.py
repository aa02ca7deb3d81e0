"""Artifacts measured in this process, which has begun: what a fresh one is for is tested with it, and it takes seconds."""

from collections.abc import Generator

from compression.export import artifact
from compression.measure import Measured, MeasureSpec, Step, measure
from compression.plan import Tick


def in_this_process(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Tick, None, Measured]:
    """Take the place of `artifact.figures`."""
    told = list[Step | Measured]()
    found = measure(spec, told.append)
    for said in told:
        if isinstance(said, Step):
            yield Tick(said.done, said.total)
    return found


def briefly(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Tick, None, Measured]:
    """Do not time for long."""
    found = yield from in_this_process(spec.model_copy(update={"seconds": 0.1}), last_try=last_try)
    return found


_in_a_fresh_one = artifact.figures


def briefly_apart(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Tick, None, Measured]:
    """Begin a fresh process all the same, whose memory is told, and do not time for long in it."""
    found = yield from _in_a_fresh_one(spec.model_copy(update={"seconds": 0.1}), last_try=last_try)
    return found


def of(found: Measured) -> Generator[Tick, None, Measured]:
    """Measure nothing, and say this."""
    yield from ()
    return found
