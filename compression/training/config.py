"""What one training is asked and what it came to: its plan, its ticks, its outcome, and the rate of each step."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from compression.evaluation.validate import Validation
from compression.quantization.precision import has_bfloat16
from compression.schema.errors import UnsupportedPrecision
from compression.schema.recipe.base import Precision

News = TypeVar("News")
Result = TypeVar("Result")


class Returning(Generic[News, Result]):
    """Loop over a generator and keep what it returns."""

    result: Result

    def __init__(self, news: Generator[News, None, Result]) -> None:
        self._news = news

    def __iter__(self) -> Iterator[News]:
        """Yield what the generator does; then there is `result`."""
        self.result = yield from self._news


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; `name` is the recipe's key, for messages.

    `parts` is in how many parts each batch goes through the model, their gradients added up: the same step in less memory, as
    near as losses and dropout let it (`_Run.gradients`). `accumulate` is the other way about: of so many batches the gradients
    are added up before each step. `warmup` is a share of all steps. `patience` is how many epochs may pass without a better
    one before training ends; epochs up to `patience_from` are not counted. `recompute`: layers are computed again backward.

    `plateau`: the rate does not fall to 0 over the epochs, but stays after the warm-up (a share of `warm_epochs` epochs), and
    is multiplied by this after each `plateau_epochs` without a gain in score or loss, when the weights go back to those of the
    last gain; `epochs` is a bound then. Only an epoch is better then that gains more than `least_gain` over the best one, in
    `Validation.worth`, or `first_gain` over the model as it came. `head_factor`: times the rate that the head is trained with.
    """

    name: str
    epochs: int
    rate: float
    batch: int
    seed: int
    warmup: float = 0.1
    decay: float = 0.01
    adapt_decay: bool = False
    dropout: bool = False
    parts: int = 1
    accumulate: int = 1
    precision: Precision = "auto"
    patience: int | None = None
    patience_from: int = 0
    recompute: bool = False
    plateau: float | None = None
    plateau_epochs: int = 1
    warm_epochs: int = 5
    least_gain: float = 0.0
    first_gain: float = 0.0
    head_factor: float = 1.0


@dataclass(frozen=True)
class TrainingOutcome:
    """What the loop came to. Epoch 0 is the model as it was before; `remarks` is what a reader of the row must know of it.

    `curve` has the validation after each epoch that was trained, `before` not among them; `out_of_patience`: training ended
    because no epoch was better for so long.
    """

    best_epoch: int
    before: Validation
    best: Validation
    stepped_back: bool
    remarks: tuple[str, ...] = ()
    curve: tuple[Validation, ...] = ()
    out_of_patience: bool = False


def check_precision(asked: Precision, device: torch.device) -> None:
    """Refuse before any training what the device cannot do. Raises UnsupportedPrecision."""
    if asked == "bfloat16" and not has_bfloat16(device):
        raise UnsupportedPrecision(f"this worker's {device.type} does not multiply bfloat16", param="recipe.train.precision")


def rate_share(step: int, total: int, warmup: float) -> float:
    """Say what share of the peak rate a step has: linear up over the warm-up, linear down to nothing at the end.

    step: from 0; total: steps of the whole training; warmup: share of them, at least one step.
    """
    warm = max(1, round(warmup * total))
    share = (step + 1) / warm if step < warm else (total - step) / max(1, total - warm)
    return max(share, 0.0)


def warm_share(step: int, steps: int, warmup: float) -> float:
    """Return what share of the peak rate a step has that stays there: linear up over the warm-up.

    step: from 0; steps: that `warmup` is a share of, at least one step.
    """
    return min((step + 1) / max(1, round(warmup * steps)), 1.0)
