"""The remedy that a job applies by itself: a distillation that falls short on validation is trained once more, more gently."""

import math
from collections.abc import Iterator
from dataclasses import replace

from compression.batches import Encoded
from compression.evaluate import validate
from compression.plan import Plan
from compression.recipe import Distill
from compression.report import Event, Log, Remedy, retention
from compression.saving import Tensors
from compression.stages.lesson import Lesson, reported
from compression.state import State
from compression.training import train

PHASE = "distill again"


def epochs_again(settings: Distill) -> int:
    """Say how many epochs the second training has: half as many again."""
    return math.ceil(settings.epochs / 2)


def is_under_way(state: State) -> bool:
    """Say whether an earlier attempt was in the second training already, so that the first need not be done."""
    return state.saver is not None and state.saver.is_at("distilled", PHASE)


def score_of_baseline(state: State) -> float:
    """Score the baseline on validation, as it reads its rows."""
    assert state.teacher is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    return validate(state.teacher, (state.base_rows or state.rows)["validation"], state.parts).score


def further(
    state: State, settings: Distill, rows: Encoded, plan: Plan, lesson: Lesson, base: float, beside: Tensors
) -> Iterator[Event]:
    """Train once more at half the rate where validation misses the retention target; keep the better. Test is not seen.

    rows, plan, lesson, beside: those of the first training, whose best epoch the model now is; base: the baseline's score.
    """
    wanted = state.targets.retention
    if not is_under_way(state):
        now = retention(base, state.validate().score)
        if now is None or now >= wanted or state.budget.reached() is not None:
            return
        yield Log(message=f"Distillation keeps {now:.4f} of the validation score, not {wanted:g}: it is trained once more.")
    more = epochs_again(settings)
    again = replace(plan, epochs=more, rate=plan.rate / 2, seed=plan.seed + 1)
    ticks = train(
        state.model,
        again,
        rows,
        state.rows["validation"],
        lesson,
        extra=lesson.parameters,
        course=state.course("distilled", PHASE, beside),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("distilled", PHASE, reported(ticks, lesson))
    why = (
        f"retention on validation was below {wanted:g}; {more} more epochs at a rate of {again.rate:g} took validation "
        f"{state.task.metric} from {outcome.before} to {outcome.best}"
    )
    kept = f"epoch {outcome.best_epoch} of them is kept" if outcome.best_epoch else "none of them was better, so none is kept"
    state.notes += (f"Remedy applied: {why} ({kept}).", *outcome.remarks)
    state.applied.append(
        Remedy(key="recipe.distill.epochs", now=settings.epochs, proposed=settings.epochs + more, why=f"{why}.", applied=True)
    )
