"""Configuration and outcome of one training, and its learning-rate schedules."""

from dataclasses import dataclass
from typing import Literal

import torch

from compression.evaluation.validate import Validation
from compression.quantization.precision import has_bfloat16
from compression.schema.errors import UnsupportedPrecision
from compression.schema.recipe.base import OptimizerName, Precision


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. An epoch is better if it gains on the best one, in `Validation.worth`."""

    name: str  #: the recipe's key, for messages
    epochs: int
    rate: float
    batch: int
    seed: int
    warmup: float = 0.1  #: share of all steps; on a plateau schedule, of `warm_epochs` epochs
    decay: float = 0.01
    adapt_decay: bool = False
    dropout: bool = False  #: running statistics follow training either way (`set_training_mode`)
    parts: int = 1  #: micro-batches per batch, whose gradients are accumulated (`_Run.gradients`): the same step in less memory
    accumulate: int = 1  #: batches whose gradients are accumulated before each step
    micro_batch: int | Literal["auto"] = "auto"  #: most rows of a micro-batch; auto: as many as the device's memory takes
    optimizer: OptimizerName = "adamw"
    compile: Literal["auto", "on", "off"] = "off"  #: torch.compile of layers; auto: on a GPU in a long training
    precision: Precision = "auto"
    patience: int | None = None  #: epochs without a better one before training ends
    patience_from: int = 0  #: epochs up to this one do not count against the patience
    recompute: bool = False  #: gradient checkpointing: layers are computed again in the backward pass
    plateau: float | None = None
    """No decay over the epochs: the rate is multiplied by this after `plateau_epochs` without a gain; `epochs` is a bound."""
    plateau_epochs: int = 1  #: epochs without a gain in score or loss, after which the weights return to those of the last gain
    warm_epochs: int = 5
    least_gain: float = 0.0  #: a better epoch gains more than this over the best one, on a plateau schedule
    first_gain: float = 0.0  #: the same over the initial model
    keeps_last: bool = False  #: the weights that stay are the last epoch's, and not the best one's
    head_factor: float = 1.0  #: factor on the learning rate of the head
    remarks: tuple[str, ...] = ()  #: what was decided for this training before it began


@dataclass(frozen=True)
class TrainingOutcome:
    """Result of the training loop. Epoch 0 is the model before training."""

    best_epoch: int
    before: Validation
    best: Validation
    stepped_back: bool
    remarks: tuple[str, ...] = ()  #: notes for the report row
    curve: tuple[Validation, ...] = ()  #: validation after each trained epoch, without `before`
    out_of_patience: bool = False  #: training ended because no epoch was better within the patience


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
