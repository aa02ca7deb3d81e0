"""One file a task: what a model's answers mean, its loss, its metric. `base` says what a task must offer."""

from compression.modalities.base import TaskAdapter
from compression.modalities.scorers import scorer_of
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.tasks.classification import Classification
from compression.modalities.tasks.regression import Regression
from compression.modalities.text.scoring.perplexity import LanguageScorer
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.modalities.text.tasks.causal_lm import CausalLM
from compression.modalities.text.tasks.question_answering import QuestionAnswering
from compression.modalities.text.tasks.token_classification import TokenClassification
from compression.schema.recipe.base import Task as Name
from compression.schema.recipe.recipe import Evaluate

AS_MEASURED = Evaluate()


def task_of(name: Name, labels: tuple[str, ...] = (), evaluate: Evaluate = AS_MEASURED) -> TaskAdapter:
    """Find a task by the name that jobs and datasets give it.

    labels: of the model, in the order of its outputs; evaluate: names the metric. Raises InvalidSpec where they do not fit.
    """
    scorer = scorer_of(name, evaluate, labels)
    if isinstance(scorer, LanguageScorer):
        return CausalLM(scorer)
    if isinstance(scorer, NumberScorer):
        return Regression(scorer)
    if isinstance(scorer, TagScorer):
        return TokenClassification(scorer)
    if isinstance(scorer, QuestionScorer):
        return QuestionAnswering(scorer)
    return Classification(name, scorer)
