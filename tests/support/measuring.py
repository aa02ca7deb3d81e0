"""Artifacts measured in this process, which has begun: what a fresh one is for is tested with it, and it takes seconds."""

from collections.abc import Generator
from unittest.mock import patch

from compression.engine.shipping import measure_artifact
from compression.evaluation import measure as timing, turns
from compression.evaluation.measure import Measured, MeasureSpec, measure
from compression.system.child_process import Step
from compression.system.progress import Step as Tick


def briefly(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Tick, None, Measured]:
    """Take the place of `artifact.figures`, and do not time for long."""
    told = list[Step | Measured]()
    with patch.object(turns, "UNCOUNTED_PASSES", 0), patch.object(timing, "WARM_UP_RUNS", 2):
        found = measure(spec.model_copy(update={"seconds": 0.1}), told.append)
    for said in told:
        if isinstance(said, Step):
            yield Tick(said.done, said.total)
    return found


_in_a_fresh_one = measure_artifact


def briefly_apart(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Tick, None, Measured]:
    """Begin a fresh process all the same, whose memory is told, and do not time for long in it."""
    found = yield from _in_a_fresh_one(spec.model_copy(update={"seconds": 0.1}), last_try=last_try)
    return found


def of(found: Measured) -> Generator[Tick, None, Measured]:
    """Measure nothing, and say this."""
    yield from ()
    return found
