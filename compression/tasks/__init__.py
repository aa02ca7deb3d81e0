"""One file a task: what a model's answers mean, its loss, its metric. `base` says what a task must offer."""

from compression import scoring
from compression.recipe import Evaluate
from compression.recipe import Task as Name
from compression.tasks.base import Task
from compression.tasks.classification import Classification
from compression.tasks.language import Language
from compression.tasks.questions import Questions
from compression.tasks.regression import Regression
from compression.tasks.tagging import Tagging

AS_MEASURED = Evaluate()


def of(name: Name, labels: tuple[str, ...] = (), evaluate: Evaluate = AS_MEASURED) -> Task:
    """Find a task by the name that jobs and datasets give it.

    labels: of the model, in the order of its outputs; evaluate: names the metric. Raises InvalidSpec where they do not fit.
    """
    scorer = scoring.of(name, evaluate, labels)
    if isinstance(scorer, scoring.LanguageScorer):
        return Language(scorer)
    if isinstance(scorer, scoring.NumberScorer):
        return Regression(scorer)
    if isinstance(scorer, scoring.TagScorer):
        return Tagging(scorer)
    if isinstance(scorer, scoring.QuestionScorer):
        return Questions(scorer)
    return Classification(name, scorer)
