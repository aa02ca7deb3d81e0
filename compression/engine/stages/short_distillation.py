"""Distills cuts for a few steps by the recipe's own loss, to see what each is worth: sizes, or cuts of one size."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.objectives import objective_for
from compression.engine.stages.task_training import NamedTraining, train_task
from compression.engine.stages.teacher_ensemble import ASK, EnsembleOutputs, ensemble_outputs
from compression.engine.stages.teacher_precision import HELD, quantize_teacher, restore_teacher
from compression.modalities.sampling import shuffled_rows
from compression.planning.size_plan import ShortTraining
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.training.config import TrainingOutcome


def short_phases(phase_of: Callable[[int], str], count: int, steps: int, row_seconds: float) -> Iterator[tuple[str, float]]:
    """Yield the teachers' answers and so many short distillations, with their expected time. row_seconds: of a row."""
    yield ASK, 0.0
    for number in range(1, count + 1):
        yield phase_of(number), steps * 32 * row_seconds / 2


@dataclass
class ShortDistillations:
    """Short distillations of one model after another, which share what the teachers answer.

    distill: the recipe's, without its general phase and its augmentation; steps: optimizer steps of each, about.
    """

    context: StageContext
    distill: Distill
    steps: int
    _outputs: EnsembleOutputs | None = None

    @property
    def plan(self) -> ShortTraining:
        """Return the rows, epochs and steps of each."""
        train, rows = self.context.recipe.train, len(self.context.rows["train"])
        named = bool(self.context.models.teachers)  # who may read other tokens, of all rows
        return ShortTraining.of(self.steps, rows, train.batch * train.accumulate, all_rows=named)

    @property
    def teachers(self) -> list[PreTrainedModel]:
        """The teachers that all of them share: what is on the device stays there between two trainings."""
        found = self._outputs
        return [] if found is None else [found.guide, *(member.model for member in found.others)]

    def trial_of(self, student: PreTrainedModel) -> StageContext:
        """Return the context in which a model is trained and judged."""
        return replace(self.context, model=student, originals=list(self.context.originals), saves_ends=True)

    def run(
        self, trial: StageContext, epochs: int, phase: str, training: NamedTraining
    ) -> Generator[Event, None, TrainingOutcome]:
        """Distill a trial's model. Its saves hold what `training.beside` does. Raises TrainingDiverged and Pause."""
        asked = self.distill.model_copy(update={"epochs": epochs, "general": None, "augment": None})
        rows, plan = self.context.rows["train"], self.plan
        if plan.rows < len(rows):
            rows = shuffled_rows(rows, plan.rows, self.context.recipe.train.seed)
        saved = trial.saved(phase) or {}
        if self._outputs is None:
            self._outputs = yield from ensemble_outputs(trial, asked, rows, ())
        guide, is_held = self._outputs.guide.to(trial.device).eval().requires_grad_(False), False
        objective = yield from trial.tracker.relay(ASK, objective_for(trial, asked, self._outputs, rows))
        try:
            is_held, _ = yield from quantize_teacher(trial, asked, guide, before=HELD in saved, again=True)
            if is_held:
                training.beside[HELD] = torch.tensor(True)
            outcome, _ = yield from train_task(trial, asked, rows, objective, phase, saved, training)
        finally:
            objective.close()
            if is_held:
                restore_teacher(trial, guide)
        return outcome
