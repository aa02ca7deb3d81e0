"""How answers become a score, task by task. Torch-free: whoever measures an artifact must not load torch.

`metrics` has the formulas, `errors` their standard errors; the other files have one task each.
"""

from compression.recipe import Evaluate, Task
from compression.scoring.base import Scorer
from compression.scoring.classes import ClassScorer
from compression.scoring.numbers import NumberScorer
from compression.scoring.questions import QuestionScorer
from compression.scoring.tags import TagScorer


def of(task: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> ClassScorer | NumberScorer | TagScorer | QuestionScorer:
    """Find what judges a task. labels: the model's, in the order of its outputs; none where it has none."""
    if task == "text-regression":
        return NumberScorer()
    if task == "token-classification":
        return TagScorer(labels)
    if task == "question-answering":
        return QuestionScorer()
    return ClassScorer.of(evaluate, labels)


__all__ = ["ClassScorer", "NumberScorer", "QuestionScorer", "Scorer", "TagScorer", "of"]
