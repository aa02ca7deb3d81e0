"""Token classification: a tag for each word, judged by whole entities (IOB2), as CoNLL does.

A word's tag is that of its first token. Words beyond the model's length get O, so that what was cut off counts as missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from compression.scoring import errors, metrics
from compression.scoring.base import Asked, Figures, Floats, Row, differing, one_window

OUTSIDE = "O"


def first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int | None]:
    """Find for each word of a text that was joined with single spaces its first token; None where it has none.

    offsets: characters of each token, (n, n) for those that stand for no text. By characters and not by the tokenizer's own
    words, because these split at punctuation, and byte-level ones must be told of each word's space.
    """
    found: list[int | None] = [None] * len(words)
    ends = np.cumsum([len(word) + 1 for word in words])
    for token, (start, end) in enumerate(offsets):
        if end <= start:
            continue
        # By its last character: some tokenizers count the space before a word to its first token.
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if word < len(words) and found[word] is None:
            found[word] = token
    return found


@dataclass(frozen=True)
class TagScorer:
    """labels: the tags in the order of the model's outputs."""

    labels: tuple[str, ...]
    metric: str = "entity_f1"

    def score(self, found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
        """The headline metric: F1 of the entities of all rows together."""
        right, mine, theirs = (sum(column) for column in zip(*map(metrics.entity_counts, found, wanted), strict=True))
        return metrics.f1_of(right, mine, theirs)

    def ask(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> Asked:
        """Each row is one window, of its words joined with spaces."""
        return one_window(tokenizer, [" ".join(row["words"]) for row in rows])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """A tag for each word."""
        return [self._tags(*each) for each in zip(asked.windows, logits, (row["words"] for row in rows), strict=True)]

    def _tags(self, window: Encoding, logits: Floats, words: Sequence[str]) -> list[str]:
        best = logits.argmax(axis=-1)
        return [OUTSIDE if at is None else self.labels[int(best[at])] for at in first_tokens(window.offsets, words)]

    def figures(self, answers: Sequence[Any], rows: Sequence[Row]) -> Figures:
        """Judge tags; a row's `label` is a list of them too."""
        counts = np.array([metrics.entity_counts(found, row["label"]) for found, row in zip(answers, rows, strict=True)])
        right, found, wanted = (int(total) for total in counts.sum(axis=0))
        values = {
            self.metric: metrics.f1_of(right, found, wanted),
            "precision": right / found if found else 0.0,
            "recall": right / wanted if wanted else 0.0,
        }
        error = errors.by_bootstrap(lambda some: metrics.f1_of(*counts[some].sum(axis=0)), len(rows))
        return Figures(values, error, "bootstrap", chance=0.0)

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Rows of which a word has another tag."""
        return differing(alone, together)
