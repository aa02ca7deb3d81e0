"""Finds the modality of a task by name. Torch-free: a modality loads torch when it encodes something."""

from __future__ import annotations  # without torch

import importlib
from functools import cache
from typing import TYPE_CHECKING

from compression.modalities.base import TaskAdapter
from compression.modalities.modality import Modality
from compression.modalities.scoring.base import Scorer
from compression.models.architectures.families import INSTALLED
from compression.models.architectures.heads import of_architecture
from compression.schema.errors import UnsupportedTask
from compression.schema.recipe.base import Task as Name
from compression.schema.recipe.recipe import Evaluate
from compression.schema.tasks import TASKS, modality_spec

if TYPE_CHECKING:
    from torch import nn

AS_MEASURED = Evaluate()


@cache
def modality_of(task: Name) -> Modality:
    """Return the modality of a task. Raises UnsupportedTask if its package cannot be loaded."""
    spec = modality_spec(task)
    module, _, attribute = spec.engine.partition(":")
    try:
        found: Modality = getattr(importlib.import_module(module), attribute)
    except Exception as problem:
        cause = f"the modality {spec.name} ({spec.engine}) cannot be loaded: {problem}"
        raise UnsupportedTask(cause, remedy="Ask who runs the worker to mend the package.") from problem
    return found


def modality_for(model: nn.Module) -> Modality:
    """Return the modality of a stock model, by its family and its class's head.

    Raises StopIteration for a model without a head.
    """
    head, kind = of_architecture(type(model).__name__), getattr(getattr(model, "config", None), "model_type", None)
    served = INSTALLED[kind].spec.tasks if kind in INSTALLED else tuple(TASKS)
    return modality_of(next(name for name in served if TASKS[name].head == head))


def task_of(name: Name, labels: tuple[str, ...] = (), evaluate: Evaluate = AS_MEASURED) -> TaskAdapter:
    """Return the adapter that trains a task.

    labels: of the model, in the order of its outputs; evaluate: names the metric. Raises InvalidSpec if they do not match.
    """
    return modality_of(name).task(name, evaluate, labels)


def scorer_of(task: Name, evaluate: Evaluate, labels: tuple[str, ...]) -> Scorer:
    """Return the scorer of a task.

    labels: the model's, in the order of its outputs; empty if it has none.
    """
    return modality_of(task).scorer(task, evaluate, labels)
