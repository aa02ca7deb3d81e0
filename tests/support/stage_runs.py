"""The stages as a job does them, each by its name."""

from collections.abc import Iterator

from compression.engine.context import StageContext
from compression.engine.stages.registry import run_stage
from compression.schema.events import Event
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED


def prepare(state: StageContext) -> Iterator[Event]:
    return run_stage(state, BASELINE)


def quantize(state: StageContext) -> Iterator[Event]:
    return run_stage(state, QUANTIZED)


def prune(state: StageContext) -> Iterator[Event]:
    return run_stage(state, PRUNED)


def distill(state: StageContext) -> Iterator[Event]:
    return run_stage(state, DISTILLED)
