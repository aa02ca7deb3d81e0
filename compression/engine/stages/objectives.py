"""What a student is held against: a teacher is asked of all rows, and the objective made of its answers."""

from collections.abc import Callable, Generator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import StatesTeacher, Teacher
from compression.engine.context import StageContext
from compression.modalities.base import Examples
from compression.schema.events import Log, TrainingSaved
from compression.schema.recipe.distill import Distill
from compression.system.progress import Returning, Step, count_rows
from compression.training.config import TrainingOutcome

TARGETS = "teacher-tokens"
"""Name of the file of what is kept of a teacher's next tokens."""


def objective_for(
    context: StageContext,
    settings: Distill,
    guide: PreTrainedModel,
    rows: Examples,
    theirs: Examples,
    logits: Tensor | None = None,
) -> Generator[Step, None, DistillationObjective]:
    """Ask a teacher of every row, tell how far that is, and make of it what the model is held against.

    rows, theirs: train as the model and as the teacher reads it; logits: the answers, where several gave them together.
    Raises Pause where one is asked for.
    """
    packed, terms = context.task.packed, settings.weights()
    comparison = FeatureAlignment.of(context.model, guide, settings, terms, apart=settings.embedding is not None)
    parts, cache_file, targets = context.parts, context.cache_file("task"), None
    if packed is not None and "soft" in terms and settings.kept is None:
        teacher: Teacher = StatesTeacher(guide, theirs, comparison.teacher, parts=parts, cache_file=cache_file)
    else:
        known = logits if packed is None else torch.zeros((len(theirs), 0))
        teacher = Teacher(guide, theirs, comparison.teacher, parts=parts, logits=known, cache_file=cache_file)
    precomputed = [teacher.precompute()] if teacher.asks else []
    if packed is not None and "soft" in terms and settings.kept is not None:
        if context.scratch is None:
            raise ValueError("what is kept of a teacher needs a folder")
        path = context.scratch / TARGETS
        targets, more = packed.keep(guide, theirs, path, settings.kept, settings.temperature, parts)
        precomputed.append(more)
    yield from count_rows(context.check_pause, len(theirs) * max(len(precomputed), 1), *precomputed)
    return DistillationObjective(context.model, teacher, comparison, settings, rows, parts=parts, targets=targets)


def output_objective(context: StageContext, rows: Examples) -> Generator[Step, None, DistillationObjective]:
    """Make a lesson of the baseline's answers and nothing else, softened as the recipe's distillation has it."""
    assert context.teacher is not None, "the baseline was prepared"  # noqa: S101
    asked = (context.recipe.distill or Distill()).answers_alone()
    alone = asked.model_copy(update={"soft": 1.0, "hard": 0.0, "weighting": "fixed", "to": None, "kept": None})
    objective = yield from objective_for(context, alone, context.teacher.to(context.device), rows, rows)
    return objective


def log_terms(
    ticks: Generator[Step | TrainingSaved | Log, None, TrainingOutcome],
    objective: DistillationObjective,
    after_epoch: Callable[[Step], None] | None = None,
) -> Generator[Step | TrainingSaved | Log, None, TrainingOutcome]:
    """Pass a training on; after each epoch, log what the terms were and what they were multiplied by.

    after_epoch: called then too, before training goes on or ends.
    """
    for news in (each := Returning(ticks)):
        if after_epoch is not None and isinstance(news, Step) and news.score is not None:
            after_epoch(news)
        if isinstance(news, Log):
            objective.loss_meter.forget()  # of a step back: what was thrown away, and may be no number, is no part of the epoch
        yield news
        if (
            isinstance(news, Step)
            and news.score is not None
            and (said := objective.loss_meter.told(objective.weighting.weights()))
        ):
            yield Log(message=f"Step {news.step} of {news.total}: {said}.")
    return each.result
