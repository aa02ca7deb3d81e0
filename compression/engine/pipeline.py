"""compress() runs the baseline and the three stages in fixed order, with a measured row after each.

prepare → ship → quantize → ship → prune → ship → distill → ship. Shipping means: write the artifact, reopen it in its own
runtime, compare it with the engine's model, and measure it. A stage that the recipe omits has no row. A decoder that is not
trained and does not fit in memory runs on another backend with the same rows (`on_disk`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from compression.engine.job import Job
from compression.engine.on_disk import backend as streaming
from compression.engine.stages.registry import planned
from compression.schema.events import Event, Finished, Log, StageStarted, Started
from compression.schema.job_spec import Spec
from compression.system import process
from compression.system.environment import environment
from compression.system.interrupts import Pause, never


def compress(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Run one job; yield its events. Relative paths in the specification are relative to `base`.

    Raises CompressionError if the job cannot be done as specified, and Pause after a step or a stage if `pause_asked` returns
    True.
    """
    torch.set_num_threads(spec.threads or process.usable_cores())
    stages = planned(spec.recipe)
    yield Started(environment=environment(), stages=stages)
    if streaming.fits_on_disk_only(spec, base):
        yield from streaming.run(spec, base, pause_asked)
        return
    job = Job.open(spec, base, pause_asked)
    done, problems = job.look_for_checkpoint(stages)
    for problem in problems:
        yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
    if done is not None:
        yield from job.go_on_from(done)
    for stage in stages:
        if stage in job.finished:
            continue
        yield StageStarted(stage=stage)
        yield from job.do(stage)
        if pause_asked():
            raise Pause
    yield from job.ship_checkpoint()
    yield Finished(report=job.report())
