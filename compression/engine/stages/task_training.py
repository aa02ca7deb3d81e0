"""Trains the current model on the task by a distillation objective: fully, or shortly to try a size."""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from compression.distillation.objective import DistillationObjective
from compression.engine.context import StageContext
from compression.engine.stages.objectives import log_terms, objective_hooks
from compression.engine.stages.teacher_precision import record_asking
from compression.modalities.base import Examples
from compression.models.tensors import Tensors
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.system.progress import Step
from compression.training.config import TrainingOutcome

PHASE = "distill"
LAST = "last"  #: the key under which a save stores the weights of the loss terms after the last epoch


@dataclass
class NamedTraining:
    """Which one of a stage's trainings, if there are several, and what its saves store."""

    suffix: str = ""  #: of the names of its phases
    beside: Tensors = field(default_factory=dict)  #: extra tensors of its saves, with their values then
    again: bool = False  #: whether the teacher runs again after it
    rows: int | None = None  #: of train and augmentation, once they are known
    general_epochs: int | None = None  #: of the general phase, once it is done: patience may end it

    def told(self, note: str) -> str:
        """Return a note of this training, which says of which one it is."""
        return f"Distilled {self.suffix.removeprefix(', ')}: {note}" if self.suffix else note


def train_task(
    context: StageContext,
    settings: Distill,
    rows: Examples,
    objective: DistillationObjective,
    phase: str,
    known: Tensors,
    training: NamedTraining,
) -> Generator[Event, None, tuple[TrainingOutcome, tuple[str, ...]]]:
    """Train on the task; return the outcome, and notes on the loss. known: extra tensors of an earlier attempt's save."""
    reads, patience = objective.reads_layers, settings.patience
    plan = context.plan("distill", epochs=settings.epochs, rate=settings.rate, reads_layers=reads, patience=patience)
    first, kept = objective.weighting.weights(), training.beside
    if LAST in known:
        kept[LAST] = known[LAST]
    changed = record_asking(known, kept, objective.teacher)

    def after_epoch(news: Step) -> None:
        # At its end training restores the best epoch's weights, the learned weights of the terms included.
        objective.before_step(news.step - 1, news.total)  # a resumed attempt may have had no step left
        kept[LAST] = torch.tensor([*objective.weighting.weights().values()], dtype=torch.float64)

    hooks = objective_hooks(objective, objective.before_step)
    ticks = context.train(phase, plan, objective, hooks, rows=rows, beside=kept)
    outcome = yield from context.tracker.relay(phase, log_terms(ticks, objective, context.processes.size, after_epoch))
    notes = [*objective.feature_losses.comparison.notes(), *outcome.remarks, *changed]
    if settings.weighting != "fixed":
        last = kept[LAST].tolist() if LAST in kept else first.values()
        changes = ", ".join(f"{term} {w:.4g} → {now:.4g}" for (term, w), now in zip(first.items(), last, strict=True))
        notes.append(f"Weights ({settings.weighting}), first → last: {changes}.")
    return outcome, tuple(training.told(one) for one in notes)
