"""Runs a job: prepare → ship → quantize → ship → prune → ship → distill → ship, with a measured row after each stage.

Shipping means: write the artifact, reopen it in its own runtime, compare it with the engine's model, and measure it. A stage
that the recipe omits has no row. A decoder that is not trained and does not fit in memory runs on another backend (`on_disk`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from compression.engine.card_measurement import measure_on_card
from compression.engine.dataset_run import DatasetRun
from compression.engine.job import Job
from compression.engine.on_disk.backend import OnDiskRun, fits_on_disk_only
from compression.engine.resolving import resolved
from compression.engine.stages.registry import planned
from compression.planning.sharded_rules import check_sharded
from compression.schema.events import Event, Finished, StageStarted, Started
from compression.schema.job_spec import Spec
from compression.system.environment import environment
from compression.system.interrupts import Pause, never
from compression.system.processor import usable_cores
from compression.training.work import ONE_PROCESS, Processes


def compress(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Run one job; yield its events. Relative paths are relative to `base`. Raises CompressionError if the job cannot be done
    as specified, and Pause after a step or a stage if `pause_asked` returns True.
    """
    torch.set_num_threads(spec.threads or usable_cores())
    stages = planned(spec.recipe)
    yield Started(environment=environment(), stages=stages)
    spec = yield from resolved(spec, base, pause_asked)
    backend = OnDiskRun if fits_on_disk_only(spec, base) else DatasetRun
    with training_processes(spec, base) as processes:
        job = Job.open(spec, base, pause_asked, backend, processes)
        yield from job.resume()
        for stage in stages[len(job.rows) :]:
            yield StageStarted(stage=stage)
            if not (yield from job.goes_on(stage)):
                break
            if pause_asked():
                raise Pause
    yield from job.ship_more()
    job.card = yield from measure_on_card(job)
    yield Finished(report=job.report())


@contextmanager
def training_processes(spec: Spec, base: Path) -> Iterator[Processes]:
    """Return the processes that a job's trainings run in; they end with this context. Raises InvalidSpec if the recipe asks for
    what several processes cannot do.
    """
    check_sharded(spec.recipe)
    if (size := spec.recipe.train.devices) == 1:
        yield ONE_PROCESS
        return
    from compression.training.ranks import Ranks  # its half second is for such jobs alone

    ranks = Ranks(size, base / spec.output / "scratch" / "ranks")
    try:
        yield ranks
    finally:
        ranks.close()
