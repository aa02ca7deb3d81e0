"""What the stages hand on to each other: the model as it is now, its teacher, the rows, and where the job is."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from compression.batches import Encoded
from compression.evaluate import Validation, validate
from compression.progress import Journey
from compression.recipe import Recipe, Split
from compression.report import Stage
from compression.saving import Course, Saver
from compression.tasks.base import Task


@dataclass
class State:
    """One job while it runs. A stage changes `model` in place or puts another there.

    `teacher` is the prepared model in full precision, frozen; `pruning` what the cut took, for the report; `notes` what the
    row of the current stage should say; `parts` in how many parts batches go through a model; `saver` keeps training in
    progress.
    """

    recipe: Recipe
    rows: dict[Split, Encoded]
    model: PreTrainedModel
    journey: Journey
    teacher: PreTrainedModel | None = None
    pruning: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    parts: int = 1
    saver: Saver | None = None

    @property
    def task(self) -> Task:
        """What the job's rows ask."""
        return self.rows["train"].task

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def course(self, stage: Stage, phase: str) -> Course | None:
        """Return the way of one training through saves and pauses; None where nobody saves."""
        return Course(self.saver, stage, phase, self.notes) if self.saver else None

    def validate(self) -> Validation:
        """Score the model as it is now on validation."""
        return validate(self.model, self.rows["validation"], self.parts)
