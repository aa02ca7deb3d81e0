"""Map tasks to the heads of stock classes and to their numbers of outputs. Torch-free."""

from compression.schema.recipe.base import Task
from compression.schema.specs import (
    CLASSIFIER as CLASSIFIER,
    IMAGE_CLASSIFIER as IMAGE_CLASSIFIER,
    LANGUAGE as LANGUAGE,
    READER as READER,
    TAGGER as TAGGER,
    Head as Head,
)
from compression.schema.tasks import TASKS

FEWEST_TOKENS = 32
"""The smallest window: a shorter one has no room for a question and its context."""
GPT2_LANGUAGE = "LMHeadModel"
"""The suffix of the class of GPT-2's language model."""
HEADS = (CLASSIFIER, TAGGER, READER)
"""Heads that encoders may have."""


def of_task(task: Task) -> Head:
    """Return the head that a task needs."""
    return TASKS[task].head


def of_architecture(name: str) -> Head | None:
    """Return the head of a stock class by its name. Returns None for a bare model and for an encoder's pre-training heads."""
    if name.endswith(GPT2_LANGUAGE):
        return LANGUAGE
    return next((head for head in (task.head for task in TASKS.values()) if name.endswith(head.suffix)), None)


def outputs(task: Task, labels: int) -> int:
    """Return the outputs of a task's head: one for numbers, two for answers' ends, 0 for a vocabulary, else one a label."""
    return TASKS[task].outputs or labels
