"""Estimates of the tokens in a job's texts, before tokenization. Torch-free."""

from dataclasses import dataclass

from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts

TOKENS_A_WORD = 1.4
CHARACTERS_A_TOKEN = 4
"""For English prose with a vocabulary of some 50,000: a smaller vocabulary means fewer, and the job takes longer."""
WINDOWS_OVERLAP = 4 / 3
"""Tokens that the model reads per token of a question's context."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of one pass over the texts."""

    train: float
    taught: float  #: train with the rows of augmentation
    plain: float  #: the texts of the general phase

    @classmethod
    def of(cls, data: DataFacts, recipe: Recipe) -> "Tokens":
        """Estimate the tokens of a job. data: of a language model its packed rows."""
        train = data.rows["train"] * of_row(data, recipe.train)
        augment = recipe.distill.augment if recipe.distill else None
        taught = train * (1 + augment.rows + augment.splices if augment else 1)  # two rows together are twice as long
        plain = train
        if "unlabelled" in data.rows:
            plain = data.rows["unlabelled"] * min(recipe.train.max_length, data.unlabelled_words * TOKENS_A_WORD + 2)
        return cls(train, taught, plain)


def of_row(data: DataFacts, train: Train) -> float:
    """Estimate the mean number of tokens of a row."""
    if not TASKS[data.task].sequences:
        return 1.0
    row = data.mean_words * TOKENS_A_WORD + 2
    # Contexts are not truncated but read in windows, which overlap by a quarter.
    return row * WINDOWS_OVERLAP if TASKS[data.task].windows else min(train.max_length, row)


def packed(data: DataFacts, recipe: Recipe) -> DataFacts:
    """Return the facts of texts as packed rows: full rows, their number estimated from the characters."""
    length = recipe.train.max_length
    counted = {name: max(round(size / CHARACTERS_A_TOKEN / length), 1) for name, size in data.characters.items()}
    return data.model_copy(update={"rows": counted, "mean_words": float(length), "longest_words": length})
