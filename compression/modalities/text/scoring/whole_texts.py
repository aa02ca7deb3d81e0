"""Text scorers of tasks that any modality can have. A row is one text or two."""

from tokenizers import Tokenizer

from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.inputs import Ask, ReadsTexts, one_window


class ReadsPairs(ReadsTexts):
    """Base class of scorers whose rows are one text or two, each one window."""

    def asking(self, tokenizer: Tokenizer) -> Ask:
        """Return what tokenizes rows."""
        return lambda rows: one_window(
            tokenizer, [(row["text"], row["pair"]) if row.get("pair") is not None else row["text"] for row in rows]
        )


class TextClassScorer(ReadsPairs, ClassScorer):
    """Scores text classification."""


class TextNumberScorer(ReadsPairs, NumberScorer):
    """Scores text regression."""
