"""Builds distillation objectives from a teacher's outputs on all rows."""

from collections.abc import Callable, Generator

import torch

from compression.distillation.live_teacher import LiveTeacher, Member
from compression.distillation.objective import AnyTeacher, DistillationObjective, FeatureAlignment
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
from compression.engine.stages.teacher_ensemble import EnsembleOutputs
from compression.engine.stages.teacher_precision import asks_in_half
from compression.modalities.base import Examples
from compression.quantization.precision import gradient_precision
from compression.schema.events import Log, TrainingSaved
from compression.schema.recipe.distill import Distill
from compression.system.progress import Returning, Step, count_rows
from compression.training.config import TrainingOutcome
from compression.training.work import BeforeStep, TrainingHooks, nothing

TARGETS = "teacher-tokens"  #: name of the file of a teacher's saved next-token targets


def objective_for(
    context: StageContext, settings: Distill, outputs: EnsembleOutputs, rows: Examples
) -> Generator[Step, None, DistillationObjective]:
    """Compute the guide's outputs on every row, yield progress, and return the objective built from them. Raises Pause. rows:
    train as the model reads it. If rows vary, or feature maps are compared, the teachers run on each batch instead.
    """
    packed, terms, guide, theirs = context.task.packed, settings.weights(), outputs.guide, outputs.rows
    apart = settings.embedding is not None or "embedding" in terms  # which a schedule may lead to
    comparison = FeatureAlignment.of(context.model, guide, settings, terms, apart=apart)
    parts, cache_file, targets = context.parts, context.cache_file("task"), None
    half = asks_in_half(context, settings)
    members = (Member(guide, theirs, outputs.weight), *outputs.others)
    if rows.varies or comparison.teacher.maps:
        teacher: AnyTeacher = LiveTeacher(members, comparison.teacher, settings.temperature, logits=outputs.logits)
    elif packed is not None and "soft" in terms and settings.kept is None:
        teacher = StatesTeacher.of(members, comparison.teacher, parts=parts, cache_file=cache_file, half=half)
    else:
        known = outputs.logits if packed is None else torch.zeros((len(theirs), 0))
        teacher = Teacher(guide, theirs, comparison.teacher, parts=parts, logits=known, cache_file=cache_file, half=half)
    asked, precomputed = teacher.asks, [teacher.precompute()]
    if packed is not None and "soft" in terms and settings.kept is not None:
        if context.scratch is None:
            raise ValueError("a folder is needed for a teacher's saved targets")
        path = context.scratch / TARGETS
        taught = [(member.model.to(context.device), member.weight) for member in members]
        targets, more = packed.keep(taught, theirs, path, settings.kept, settings.temperature, parts, half=half)
        asked, precomputed = asked + len(theirs), [*precomputed, more]
    yield from count_rows(context.check_pause, max(asked, 1), *precomputed)
    if targets is not None:
        for member in outputs.others:  # the file has what they said
            member.model.cpu()
    with gradient_precision(context.recipe.train.precision):  # the first projections come from what the teacher is asked here
        return DistillationObjective(context.model, teacher, comparison, settings, rows, parts=parts, targets=targets)


def output_objective(context: StageContext, rows: Examples) -> Generator[Step, None, DistillationObjective]:
    """Build an objective from the baseline's outputs alone, softened at the temperature of the recipe's distillation."""
    asked = (context.recipe.distill or Distill()).answers_alone()
    alone = asked.model_copy(update={"soft": 1.0, "hard": 0.0, "weighting": "fixed", "to": None, "kept": None})
    outputs = EnsembleOutputs(context.prepared.to(context.device), rows)
    return (yield from objective_for(context, alone, outputs, rows))


def objective_hooks(objective: DistillationObjective, before_step: BeforeStep = nothing) -> TrainingHooks:
    """Return the hooks of a training on an objective."""
    return TrainingHooks(before_step=before_step, extra=objective.parameters, asked=objective.models, inside=objective.inside)


def log_terms(
    ticks: Generator[Step | TrainingSaved | Log, None, TrainingOutcome],
    objective: DistillationObjective,
    processes: int,
    after_epoch: Callable[[Step], None] | None = None,
) -> Generator[Step | TrainingSaved | Log, None, TrainingOutcome]:
    """Relay a training's events; after each epoch call `after_epoch`, and log the loss terms and their weights.

    processes: that train together. The objective of this one, the first, has seen its own part of each batch alone.
    """
    part = "" if processes == 1 else f", of the first of {processes} processes' rows"
    for news in (each := Returning(ticks)):
        if isinstance(news, Log):
            objective.loss_meter.forget()  # training stepped back: discarded losses, maybe NaN, are not part of the epoch
        if not isinstance(news, Step) or news.score is None:
            yield news
            continue
        if after_epoch is not None:
            after_epoch(news)
        yield news
        if terms := objective.loss_meter.describe(objective.weighting.weights()):
            yield Log(message=f"Step {news.step} of {news.total}: {terms}{part}.")
    return each.result
