"""Fits the trainings of a size search into the minutes that are left. Torch-free, pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from compression.schema.artifact_formats import further_formats
from compression.schema.recipe.distill import Distill

LEAST_FITTED = 0.75
"""Of a full distillation, for which time must be left: it is then fitted into that."""
NEARLY = 2 / 3
"""Share of a full distillation's steps that the first and the second one have each, if time is left for both."""
LEAST_EPOCHS = 2
"""Of a short distillation: one says nothing of how losses fall."""
FEWEST_EXPORTS = 6
"""Exports with their measurements for which time is left, at least: of the distilled model, its checkpoint, and what the gate
and a slower form take more. What followed the search of ten jobs took 2.7 to 5.3 of them (docs/benchmarks.md).
"""


def exports_after(asked: Sequence[str] | None, *, generates: bool) -> int:
    """Return for how many exports after distillation time is left: of the model, and of each further form, which a language
    model has in two sizes. asked: the recipe's `artifacts`; None: its own library's checkpoint, of a language model two.
    """
    forms = (2 if generates else 1) if asked is None else len(further_formats(asked))
    return max(2 + forms * (2 if generates else 1), FEWEST_EXPORTS)


def judgings(epochs: int, general_epochs: int) -> int:
    """Return how often a training passes over validation: before each of its phases, after each epoch, and once more for the
    error of its score. In the general phase it is the teacher that is asked once more.
    """
    return epochs + 2 + (general_epochs + 2 if general_epochs else 0)


@dataclass(frozen=True)
class Pace:
    """The seconds of an optimizer step, of a pass over validation with its score, and of what is computed once: the error."""

    step: float
    judging: float = 0.0
    error: float = 0.0


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

    @property
    def all_steps(self) -> int:
        """Return the optimizer steps of both phases."""
        return self.steps + self.general_epochs * self.general_steps

    def seconds(self, pace: Pace) -> float:
        """Return the time of both phases."""
        return pace.step * self.all_steps + pace.judging * judgings(self.epochs, self.general_epochs) + pace.error

    def fitted(self, pace: Pace | None, left: float) -> "FullTraining":
        """Return as much of it as seconds that are left allow, one epoch of each phase at least. pace: None is not known, since
        there was no time to train any size: that least.
        """
        if pace is None or left <= 0:
            return self.least
        if (whole := self.seconds(pace)) <= left:
            return self
        epoch, general_epoch = (pace.step * steps + pace.judging for steps in (self.epoch_steps, self.general_steps))
        fixed = whole - self.epochs * epoch - self.general_epochs * general_epoch
        left = max(left - fixed, 0.0)
        share = left / (whole - fixed)
        epochs = max(int(share * self.epochs), 1)
        if not self.general_epochs:
            return replace(self, epochs=epochs)
        room = max(left - epochs * epoch, 0.0)
        general = min(int(share * self.general_epochs), int(room / general_epoch))
        return replace(self, epochs=epochs, general_epochs=max(general, 1))

    def first(self, pace: Pace | None, left: float) -> "FullTraining":
        """Return as much of it as `fitted` does, but leave time for a second one, if both can be NEARLY whole: the second
        corrects the size of the first.
        """
        return self.fitted(pace, left / 2 if pace is not None and self.is_time_twice(pace, left) else left)

    def is_time_twice(self, pace: Pace, left: float) -> bool:
        """Return whether seconds that are left allow two of them, in whole epochs."""
        return self.fitted(pace, left / 2).all_steps >= NEARLY * self.all_steps

    @property
    def least(self) -> "FullTraining":
        """Return one epoch of each phase."""
        return replace(self, epochs=1, general_epochs=min(self.general_epochs, 1))


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
