"""Whether what is compared of the insides helps: tried for some steps with it and without, judged by the loss on validation.

Hidden states help where layers are gone, and may cost where widths are (Minitron, Muralidharan et al. 2024, on losses); which
it is for a model and its data, only its validation tells.
"""

import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace

import torch

from compression.distillation.objective import DistillationObjective
from compression.engine.context import StageContext
from compression.evaluation.validate import Validation
from compression.modalities.base import Examples, count_steps
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Event, Log, TrainingSaved
from compression.schema.recipe.distill import INSIDES, Distill, Gate
from compression.system.progress import Step
from compression.training.budget import Budget, Spent
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.trainer import train

WITH, WITHOUT = "try with insides", "try answers alone"


def gated(
    context: StageContext,
    asked: Gate,
    settings: Distill,
    rows: Examples,
    objective: DistillationObjective,
    plan: TrainingConfig,
) -> Generator[Event, None, bool]:
    """Try both, say what was found, and leave the lesson as it is to be taught and the student as it was.

    Returns whether the insides count. What the trials take is put to the job's account; where that has no room for twice as
    many steps behind them, or as many minutes, nothing is found out, and the insides count.
    """
    if context.budget.steps_of(4 * asked.steps) < 4 * asked.steps:
        context.notes.append(f"The gate was left out: recipe.train.max_steps has no room for {4 * asked.steps} steps more.")
        return True
    left = context.budget.minutes_left()
    own = Budget(asked.steps, None if left is None else left / 4, clock=context.budget.clock)
    whole = yield from _tried(context, replace(own, spent=Spent()), WITH, rows, objective, plan)
    alone = None
    if whole is not None:
        put_back = objective.answers_alone()
        alone = yield from _tried(context, replace(own, spent=Spent()), WITHOUT, rows, objective, plan)
        put_back()
    if whole is None or alone is None:
        context.notes.append(
            f"The gate was left out: {asked.steps} steps take more than a quarter of what recipe.train.max_minutes leaves."
        )
        return True
    is_open = whole < alone
    if not is_open:
        objective.forget_insides()
    terms = ", ".join(term for term in INSIDES if term in settings.weights())
    which = f"{terms} count" if is_open else "answers alone are learned"
    said = f"The gate: least loss on validation in {asked.steps} steps {whole:.4f} with {terms}, {alone:.4f} without: {which}."
    context.notes.append(said)
    yield Log(message=said)
    return is_open


def _tried(
    context: StageContext,
    own: Budget,
    phase: str,
    rows: Examples,
    objective: DistillationObjective,
    plan: TrainingConfig,
) -> Generator[Event, None, float | None]:
    """Train for some steps, put everything back, and return the least loss on validation that training came to.

    That of the weights before it does not count: it is the same in both trials, and where either makes it worse at first it
    would be the verdict. Infinite, where the loss was not finite twice; None, where the time was up before. own: steps and
    minutes of this trial.
    """
    assert own.max_steps is not None, "a trial has so many steps"  # noqa: S101
    learned = [*context.model.parameters(), *objective.parameters]
    before = [parameter.detach().clone() for parameter in learned]
    an_epoch = count_steps(count_steps(len(rows), plan.batch), plan.accumulate)
    found: float | None
    found, losses = math.inf, list[float]()

    def judged() -> Validation:
        gain = context.validate().negative_loss
        losses.append(-gain)
        return Validation(gain, gain)

    def before_step(step: int, total: int) -> None:
        context.check_pause()
        objective.before_step(step, total)

    ticks = train(
        context.model,
        replace(plan, epochs=math.ceil(own.max_steps / an_epoch), patience=None),
        rows,
        None,
        objective,
        before_step=before_step,
        validation=judged,
        extra=objective.parameters,
        budget=own,
    )
    with suppress(TrainingDiverged):  # what cannot be trained helps nobody: it has lost
        yield from context.tracker.follow("distilled", phase, _steps_alone(ticks))
        in_time = own.spent.steps >= own.max_steps
        found = min(filter(math.isfinite, losses[1:]), default=math.inf) if in_time else None
    context.model.eval()
    for parameter in learned:
        parameter.grad = None
    with torch.no_grad():
        for parameter, weight in zip(learned, before, strict=True):
            parameter.copy_(weight)
    objective.loss_meter.told(objective.weighting.weights())
    objective.before_step(0, 1)  # weights that change with training are where they begin
    context.budget.spent.steps += own.spent.steps
    context.budget.spent.seconds += own.spent.seconds
    return found


def _steps_alone(ticks: Generator[Step | TrainingSaved | Log, None, TrainingOutcome]) -> Generator[Step, None, None]:
    """Pass a trial's steps on, and not what it says of a limit: that is the gate's, and no limit of the job."""
    for news in ticks:
        if isinstance(news, Step):
            yield news
