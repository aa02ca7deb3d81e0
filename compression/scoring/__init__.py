"""How answers become a score, task by task. Torch-free: whoever measures an artifact must not load torch.

`metrics` has the formulas, `errors` their standard errors; the other files have one task each.
"""

from compression.recipe import Evaluate, Task
from compression.scoring.base import Scorer
from compression.scoring.classes import ClassScorer
from compression.scoring.language import LanguageScorer
from compression.scoring.numbers import NumberScorer
from compression.scoring.questions import QuestionScorer
from compression.scoring.tags import TagScorer

AnyScorer = ClassScorer | NumberScorer | TagScorer | QuestionScorer
WINDOW = 512
"""Tokens that a language model reads together where nobody says: part.Part says it from the recipe."""


def of(task: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> AnyScorer | LanguageScorer:
    """Find what judges a task. labels: the model's, in the order of its outputs; none where it has none."""
    if task == "causal-lm":
        length = evaluate.window or WINDOW
        return LanguageScorer(length, max(length // 2, 1))
    if task == "text-regression":
        return NumberScorer()
    if task == "token-classification":
        return TagScorer(labels)
    if task == "question-answering":
        return QuestionScorer()
    return ClassScorer.of(evaluate, labels)


__all__ = ["AnyScorer", "ClassScorer", "LanguageScorer", "NumberScorer", "QuestionScorer", "Scorer", "TagScorer", "of"]
