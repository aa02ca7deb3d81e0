"""compress(): the baseline and the three stages in their fixed order, a measured row after each.

prepare → ship → quantize → ship → prune → ship → distill → ship. Shipping means: write the artifact, reopen it in its own
runtime, hold it against the engine's model, and measure it. A stage that the recipe leaves out has no row. A decoder that
shall not be trained, and that memory does not hold, goes another way with the same rows (`streaming`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from compression import process
from compression.environment import environment
from compression.job import Job
from compression.phases import planned
from compression.recipe import Spec
from compression.report import Event, Finished, Log, StageStarted, Started
from compression.saving import Pause, never
from compression.streaming import job as streaming


def compress(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Do one job; yield what happens. Relative paths of the specification are taken from `base`.

    Raises CompressionError where the job cannot be done as asked, and Pause after a step or a stage at which `pause_asked`.
    """
    torch.set_num_threads(spec.threads or process.usable_cores())
    stages = planned(spec.recipe)
    yield Started(environment=environment(), stages=stages)
    if streaming.is_for(spec, base):
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
