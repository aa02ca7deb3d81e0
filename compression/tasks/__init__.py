"""One file a task: what a model's answers mean, its loss, its metric. `base` says what a task must offer."""

from compression.recipe import Task as Name
from compression.tasks.base import Task
from compression.tasks.classification import TextClassification

TASKS: dict[Name, Task] = {task.name: task for task in (TextClassification(),)}


def of(name: Name) -> Task:
    """Find a task by the name that jobs and datasets give it."""
    return TASKS[name]
