"""Tune the user's model on the user's rows: the baseline that all is held against, and the teacher."""

import copy
from collections.abc import Iterator

from compression.report import Event
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train


def prepare(state: State) -> Iterator[Event]:
    """Train head and encoder in full precision, then freeze a copy as the teacher."""
    recipe, model = state.recipe, state.model
    settings = recipe.prepare
    plan = state.plan("prepare", epochs=settings.epochs, rate=settings.rate, dropout=True, patience=settings.patience)
    ticks = train(
        model,
        plan,
        state.rows["train"],
        state.rows["validation"],
        labelled(state.task, model),
        course=state.course("baseline", "tune"),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("baseline", "tune", ticks)
    if plan.epochs:
        state.notes.append(
            f"Tuned on train: validation {state.task.metric} {outcome.before.score:.4f} → {outcome.best.score:.4f} "
            f"(best of epochs 0 to {plan.epochs}: {outcome.best_epoch})."
        )
        state.notes += outcome.remarks
    state.teacher = copy.deepcopy(model).eval().requires_grad_(False)
