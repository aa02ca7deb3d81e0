"""The stages as a job does them, each by its name."""

from functools import partial

from compression.engine.stages.registry import run_stage
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED

prepare, quantize, prune, distill = (partial(run_stage, stage=stage) for stage in (BASELINE, QUANTIZED, PRUNED, DISTILLED))
