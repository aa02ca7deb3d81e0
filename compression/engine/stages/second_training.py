"""The remedy that a job applies by itself: a distillation that falls short on validation is trained once more, more gently."""

import math
from collections.abc import Iterator
from dataclasses import replace

from compression.distillation.objective import DistillationObjective
from compression.engine.context import StageContext
from compression.engine.stages.objectives import log_terms
from compression.evaluation.validate import validate
from compression.modalities.base import Examples
from compression.models.tensors import Tensors
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill
from compression.schema.report.measurements import Remedy
from compression.schema.report.ratios import retention
from compression.training.config import TrainingConfig
from compression.training.trainer import train

PHASE = "distill again"


def epochs_again(settings: Distill) -> int:
    """Say how many epochs the second training has: half as many again."""
    return math.ceil(settings.epochs / 2)


def is_under_way(context: StageContext) -> bool:
    """Say whether an earlier attempt was in the second training already, so that the first need not be done."""
    return context.checkpointer is not None and context.checkpointer.is_at("distilled", PHASE)


def score_of_baseline(context: StageContext) -> float:
    """Score the baseline on validation, as it reads its rows."""
    assert context.teacher is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    return validate(context.teacher, (context.base_rows or context.rows)["validation"], context.parts).score


def further(
    context: StageContext,
    settings: Distill,
    rows: Examples,
    plan: TrainingConfig,
    objective: DistillationObjective,
    base: float,
    beside: Tensors,
) -> Iterator[Event]:
    """Train once more at half the rate where validation misses the retention target; keep the better. Test is not seen.

    rows, plan, lesson, beside: those of the first training, whose best epoch the model now is; base: the baseline's score.
    """
    wanted = context.targets.retention
    if not is_under_way(context):
        now = retention(base, context.validate().score)
        if now is None or now >= wanted or context.budget.reached() is not None:
            return
        yield Log(message=f"Distillation keeps {now:.4f} of the validation score, not {wanted:g}: it is trained once more.")
    more = epochs_again(settings)
    again = replace(plan, epochs=more, rate=plan.rate / 2, seed=plan.seed + 1)
    ticks = train(
        context.model,
        again,
        rows,
        context.rows["validation"],
        objective,
        extra=objective.parameters,
        resumable=context.resumable("distilled", PHASE, beside),
        budget=context.budget,
    )
    outcome = yield from context.tracker.follow("distilled", PHASE, log_terms(ticks, objective))
    why = (
        f"retention on validation was below {wanted:g}; {more} more epochs at a rate of {again.rate:g} took validation "
        f"{context.task.metric} from {outcome.before} to {outcome.best}"
    )
    kept = f"epoch {outcome.best_epoch} of them is kept" if outcome.best_epoch else "none of them was better, so none is kept"
    context.notes += (f"Remedy applied: {why} ({kept}).", *outcome.remarks)
    context.applied.append(
        Remedy(key="recipe.distill.epochs", now=settings.epochs, proposed=settings.epochs + more, why=f"{why}.", applied=True)
    )
