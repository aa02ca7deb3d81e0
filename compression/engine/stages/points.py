"""Cuts and distills the next smaller of several sizes (`prune.points`), from the model of the one before it.

The first size goes through the general phase and is `distilled`'s row; each other size is cut from the distilled model before
it, as ZipLM makes a family of models (Kurtic et al. 2023), and distilled on the task. Which units go was decided with the cut
to the first size, by one set of error tables; the weights that stay are updated by what the layers of the current model read.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import units_after, updated_cut
from compression.engine.stages.distill import distilled, distilled_again, inputs, task_phases
from compression.engine.stages.error_tables import collect_layer_inputs
from compression.engine.stages.registry import ExpectedWork, StageRunner
from compression.models.adapters.registry import adapter_of
from compression.pruning.scores import ImportanceScores
from compression.schema.events import Event
from compression.schema.report.points import PointCut


def next_point(context: StageContext) -> Iterator[Event]:
    """Cut the current model to the next size and distill it without a general phase. Raises Pause."""
    settings, stage, points = context.recipe.distill, context.tracker.stage, context.result.points
    assert settings is not None, "several sizes need it"  # noqa: S101
    place = next(at for at, one in enumerate(points) if one.stage == stage)
    yield from context.tracker.emit_boundary("cut", done=False)
    _cut(context, points[place - 1], points[place])
    yield from context.tracker.emit_boundary("cut", done=True)
    task = settings.model_copy(update={"general": None})
    yield from (distilled_again if place + 1 < len(points) else distilled)(context, task)


def _cut(context: StageContext, larger: PointCut, to: PointCut) -> None:
    """Cut the current model from one size to the next. Raises Pause."""
    model, result = context.model, context.result
    whole = context.validate()
    collect_layer_inputs(context)
    scores = ImportanceScores.of_tensors(result.units)
    if len(to.layers) < len(larger.layers):
        scores = replace(scores, kept=torch.tensor([larger.layers.index(number) for number in to.layers]))
    plan = scores.choose(adapter_of(model), to.shape)
    context.model = updated_cut(context, model, plan)
    context.layer_inputs, result.smoothed = None, {}
    result.units, result.pruning = units_after(scores, plan), to.pruning
    change = f"validation {context.task.metric} {whole} → {context.validate()}, before any training"
    context.notes.append(f"Cut from {larger.stage} to {to.shape.short}, predicted error {to.error:.4g}: {change}.")


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the cut and the distillation on the task."""
    yield "cut", 2.0
    yield from task_phases(expected)


STAGE = StageRunner(next_point, phases, inputs, asks_teachers=True)
