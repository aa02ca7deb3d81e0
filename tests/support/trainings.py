"""A training's state outside of its loop."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from compression.training.budget import Budget
from compression.training.config import TrainingConfig
from compression.training.trainer import _Run
from compression.training.work import NO_HOOKS, Alone, Work

ONE_STEP: Any = range(1)
"""In place of rows: an epoch of them is one step."""


def run_of(model: nn.Module, plan: TrainingConfig, loss: Callable[[Any], Tensor], rows: Any = ONE_STEP) -> _Run:
    """Return the state of a training which has not begun."""
    work = Work(model, plan, rows, loss, NO_HOOKS, Budget())
    return _Run(work, Alone(work))
