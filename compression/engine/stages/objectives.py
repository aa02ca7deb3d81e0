"""Lessons by what a task asks: a few answers a row, or next tokens."""

from collections.abc import Callable, Generator

from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
from compression.engine.stages.causal_lm_objective import causal_lm_objective as of_tokens
from compression.modalities.text.batches import TokenizedDataset
from compression.schema.events import Log, TrainingSaved
from compression.schema.recipe.distill import Distill
from compression.system.progress import Returning, Step, count_rows
from compression.training.config import TrainingOutcome


def objective_for(
    context: StageContext,
    settings: Distill,
    guide: PreTrainedModel,
    rows: TokenizedDataset,
    theirs: TokenizedDataset,
    logits: Tensor | None = None,
) -> Generator[Step, None, DistillationObjective]:
    """Ask a teacher of every row, tell how far that is, and make of it what the model is held against.

    rows, theirs: train as the model and as the teacher reads it; logits: the answers, where several gave them together.
    Raises Pause where one is asked for.
    """
    if context.task.name == "causal-lm":
        found = yield from of_tokens(context, settings, guide, rows, theirs)
        return found
    comparison = FeatureAlignment.of(context.model, guide, settings, settings.weights(), apart=settings.embedding is not None)
    cache_file = context.cache_file("task")
    teacher = Teacher(guide, theirs, comparison.teacher, parts=context.parts, logits=logits, cache_file=cache_file)
    yield from count_rows(context.check_pause, len(theirs), teacher.precompute())
    return DistillationObjective(context.model, teacher, comparison, settings, rows, parts=context.parts)


def output_objective(context: StageContext, rows: TokenizedDataset) -> Generator[Step, None, DistillationObjective]:
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
