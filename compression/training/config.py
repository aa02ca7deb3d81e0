"""Configuration and outcome of one training, and its learning-rate schedules."""

from dataclasses import dataclass

import torch

from compression.evaluation.validate import Validation
from compression.quantization.precision import has_bfloat16
from compression.schema.errors import UnsupportedPrecision
from compression.schema.recipe.base import Precision


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; `name` is the recipe's key, for messages.

    `parts` is the number of micro-batches per batch. Their gradients are accumulated: the same step in less memory, as closely
    as losses and dropout allow (`_Run.gradients`). `accumulate` is the number of batches whose gradients are accumulated before
    each step. `warmup` is a share of all steps. `patience` is how many epochs may pass without a better one before training
    ends; epochs up to `patience_from` do not count. `recompute`: gradient checkpointing, layers are computed again in the
    backward pass.

    `plateau`: the rate does not decay to 0 over the epochs. It stays constant after the warm-up (a share of `warm_epochs`
    epochs), and is multiplied by `plateau` after each `plateau_epochs` without a gain in score or loss, when the weights return
    to those of the last gain; `epochs` is then an upper bound. In this mode an epoch is better only if it gains more than
    `least_gain` over the best one, in `Validation.worth`, or `first_gain` over the initial model. `head_factor`: factor on the
    learning rate of the head.
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
    """Result of the training loop. Epoch 0 is the model before training.

    `remarks` are for the report row; `curve`: validation after each epoch; `out_of_patience`: no epoch was better within it.
    """

    best_epoch: int
    before: Validation
    best: Validation
    stepped_back: bool
    remarks: tuple[str, ...] = ()
    curve: tuple[Validation, ...] = ()
    out_of_patience: bool = False


def check_precision(asked: Precision, device: torch.device) -> None:
    """Raise UnsupportedPrecision, before training, if the device lacks the requested precision."""
    if asked == "bfloat16" and not has_bfloat16(device):
        raise UnsupportedPrecision(f"this worker's {device.type} does not multiply bfloat16", param="recipe.train.precision")


def rate_share(step: int, total: int, warmup: float) -> float:
    """Return a step's share of the peak rate: linear warm-up over a share of `total`, at least one step, then decay to 0."""
    warm = max(1, round(warmup * total))
    share = (step + 1) / warm if step < warm else (total - step) / max(1, total - warm)
    return max(share, 0.0)


def warm_share(step: int, steps: int, warmup: float) -> float:
    """Return a step's share of the peak rate: linear warm-up over a share of `steps`, at least one, then constant."""
    return min((step + 1) / max(1, round(warmup * steps)), 1.0)
