"""Which stock class answers which task, and what its outputs are called. Torch-free."""

from compression.schema.recipe.base import Task
from compression.schema.specs import CLASSIFIER, LANGUAGE, READER, TAGGER, Head
from compression.schema.tasks import TASKS

__all__ = [
    "CLASSIFIER",
    "FEWEST_TOKENS",
    "HEADS",
    "LANGUAGE",
    "READER",
    "TAGGER",
    "Head",
    "of_architecture",
    "of_task",
    "outputs",
]

FEWEST_TOKENS = 32
"""With fewer a window has no room for a question and its context."""
GPT2_LANGUAGE = "LMHeadModel"
"""How GPT-2's language model is called."""
HEADS = (CLASSIFIER, TAGGER, READER)
"""Those that encoders may have."""


def of_task(task: Task) -> Head:
    """Find the head that a task needs."""
    return TASKS[task].head


def of_architecture(name: str) -> Head | None:
    """Find the head of a stock class by its name; None for a bare model and for an encoder's heads of pre-training."""
    if name.endswith(GPT2_LANGUAGE):
        return LANGUAGE
    return next((head for head in (task.head for task in TASKS.values()) if name.endswith(head.suffix)), None)


def outputs(task: Task, labels: int) -> int:
    """Count the outputs of a task's head. labels: of the data; numbers have one output, questions a start and an end.

    0 of a language model, whose outputs are its vocabulary.
    """
    return TASKS[task].outputs or labels
