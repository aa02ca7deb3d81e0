"""Fits the trainings of a size search into the minutes that are left. Torch-free, pure."""

from dataclasses import dataclass, replace
from math import ceil

from compression.schema.recipe.distill import Distill

LEAST_EPOCHS = 2
"""Of a short distillation: one says nothing of how losses fall."""
SHIPS_AFTER_CUT = 5
"""The time of so many exports with their measurements follows the search: for the cut, the distilled model, its further forms
and the gate.
"""


@dataclass(frozen=True)
class FullTraining:
    """A full distillation: passes over train, and over the unlabelled texts before it."""

    epochs: int
    general_epochs: int
    epoch_steps: int  #: optimizer steps of a pass over train
    general_steps: int  #: and over the unlabelled texts

    @classmethod
    def of(cls, distill: Distill, epoch_steps: int, general_steps: int) -> "FullTraining":
        """Return what a recipe asks for."""
        return cls(distill.epochs, distill.general.epochs if distill.general is not None else 0, epoch_steps, general_steps)

    @property
    def steps(self) -> int:
        """Return the optimizer steps of the distillation on the task."""
        return self.epochs * self.epoch_steps

    def seconds(self, step_seconds: float) -> float:
        """Return the time of both phases. step_seconds: of one step."""
        return step_seconds * (self.steps + self.general_epochs * self.general_steps)

    def fitted(self, step_seconds: float | None, left: float) -> "FullTraining":
        """Return as much of it as seconds that are left allow, one epoch of each phase at least. step_seconds: None is not
        known, since there was no time to train any size: that least.
        """
        whole = self.seconds(step_seconds or 0.0)
        if step_seconds is not None and whole <= left:
            return self
        share = max(left, 0.0) / whole if whole else 0.0
        general = max(int(share * self.general_epochs), 1) if self.general_epochs else 0
        return replace(self, epochs=max(int(share * self.epochs), 1), general_epochs=general)


@dataclass(frozen=True)
class ShortTraining:
    """A short distillation: passes over some rows of train."""

    rows: int
    epochs: int
    steps: int

    @classmethod
    def of(cls, steps: int, rows: int, batch: int, *, all_rows: bool) -> "ShortTraining":
        """Return about so many steps. rows: of train; batch: rows of a step; all_rows: whether none may be left out."""
        some = rows if all_rows else min(rows, max(ceil(steps / LEAST_EPOCHS), 1) * batch)
        epoch = max(ceil(some / batch), 1)
        epochs = max(round(steps / epoch), 1 if all_rows else LEAST_EPOCHS)
        return cls(some, epochs, epochs * epoch)
