"""How answers become a score, task by task. Torch-free: whoever measures an artifact must not load torch.

`metrics` has the formulas, `errors` their standard errors; the other files have one task each.
"""

from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.scoring.perplexity import LanguageScorer
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate

AnyScorer = ClassScorer | NumberScorer | TagScorer | QuestionScorer
WINDOW = 512
"""Tokens that a language model reads together where nobody says: part.Part says it from the recipe."""


def scorer_of(task: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> AnyScorer | LanguageScorer:
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
