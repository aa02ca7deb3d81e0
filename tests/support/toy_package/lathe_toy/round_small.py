"""The stage: sets small weights to zero between pruning and distillation.

Shows `StageRunner`: the work is a generator that changes the context's model and yields progress; `phases` tells how long it
takes, `inputs` what its result depends on beside model, data and recipe. Row, artifact and resume come by themselves.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from compression.engine.context import StageContext
from compression.engine.stages.registry import ExpectedWork, StageRunner
from compression.models.linear_layers import is_linear
from compression.schema.events import Event
from compression.schema.job_spec import Spec

PHASE = "round small weights"
VERSION = 1
"""Raise it if the stage computes something else: checkpoints of before are then not resumed."""


@torch.no_grad()
def round_small(context: StageContext) -> Iterator[Event]:
    share, before = context.recipe.round_small.share, context.validate()
    yield from context.tracker.emit_boundary(PHASE, done=False)
    for module in context.model.modules():
        if is_linear(module):
            sizes = module.weight.abs().flatten()
            least = sizes.kthvalue(max(int(share * len(sizes)), 1)).values
            module.weight[module.weight.abs() <= least] = 0
    context.notes.append(f"{share:.0%} of the weights became zero: validation {before} → {context.validate()}.")
    yield from context.tracker.emit_boundary(PHASE, done=True)


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    yield PHASE, 1.0


def inputs(spec: Spec, base: Path) -> dict[str, Any]:
    return {"round_small": VERSION}


STAGE = StageRunner(round_small, phases, inputs)
