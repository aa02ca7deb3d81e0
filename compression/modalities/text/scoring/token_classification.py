"""Token classification: a tag for each word, scored by whole entities (IOB2), as CoNLL does.

A word's tag is that of its first token; words beyond the model's length get O, so their entities count as missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from compression.modalities.scoring import metrics, paired, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.modalities.text.inputs import Ask, ReadsTexts, cut_words, one_window
from compression.schema.report.gate import PairedDrop

OUTSIDE = "O"


def first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int | None]:
    """Return the first token of each word of a text joined with single spaces; None if a word has none.

    offsets: characters of each token, (n, n) for those that stand for no text. Tokenizers' own words split at punctuation, and
    those of byte-level tokenizers need each word's space.
    """
    firsts: list[int | None] = [None] * len(words)
    ends = np.cumsum([len(word) + 1 for word in words])
    for token, (start, end) in enumerate(offsets):
        if end <= start:
            continue
        # By its last character: some tokenizers include the space before a word in its first token.
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if word < len(words) and firsts[word] is None:
            firsts[word] = token
    return firsts


@dataclass(frozen=True)
class TagScorer(ReadsTexts, RowScorer):
    """Scores tags by entities. labels: the tags in the order of the model's outputs."""

    labels: tuple[str, ...]
    metric: str = "entity_f1"

    def score(self, predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> float:
        """Return the headline metric: F1 of the entities of all rows together."""
        return self._worth(_counts(predicted, expected))[self.metric]

    def asking(self, tokenizer: Tokenizer) -> Ask:
        """Return what tokenizes rows; each is one window, of its words joined with spaces."""
        return lambda rows: one_window(tokenizer, [" ".join(row["words"]) for row in rows])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """Return a tag for each word of each row."""
        return [self._tags(*each) for each in zip(asked.windows, logits, (row["words"] for row in rows), strict=True)]

    def _tags(self, window: Encoding, logits: Floats, words: Sequence[str]) -> list[str]:
        best = logits.argmax(axis=-1)
        return [OUTSIDE if at is None else self.labels[int(best[at])] for at in first_tokens(window.offsets, words)]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score tags; a row's `label` is a list of tags too."""
        return self._worth(_counts(answers, [row["label"] for row in rows]))

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Return the metrics; all errors are the bootstrap's over rows. Entities of a row are not independent."""
        counts = _counts(answers, [row["label"] for row in rows])
        draws = standard_errors.resampled(lambda some: self._worth(counts[some]), len(rows), seed=seed)
        return Figures(self._worth(counts), standard_errors.deviations(draws, len(rows)), "bootstrap", 0.0, draws[self.metric])

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
        """Return the right, the predicted and the true entities of each row."""
        return _counts(answers, [row["label"] for row in rows]).astype(np.float64)

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:
        """Return how much worse F1 of the entities is. One more row has the entities of one of these, and one model misses all
        of them.
        """
        paired.check_pairs(before[:, 2], after[:, 2])
        kinds, counts = np.unique(np.concatenate([before, after], axis=1), axis=0, return_counts=True)
        sizes = np.maximum(kinds[:, 2], 1)
        found, missed = np.stack([sizes] * 3, axis=1), np.stack([0 * sizes, sizes, sizes], axis=1)
        added = [np.concatenate(pair, axis=1) for pair in ((found, missed), (missed, found))]
        first = np.tile(np.arange(len(kinds)), 3) + len(kinds)
        every = np.concatenate([kinds, *added])

        def metric(weights: Numbers) -> tuple[Numbers, Numbers]:
            sums = weights @ every
            f1 = [2 * sums[:, at] / np.maximum(sums[:, at + 1] + sums[:, at + 2], 1e-300) for at in (0, 3)]
            return f1[0], f1[1]

        often = np.append(counts.astype(np.float64), np.zeros(2 * len(kinds)))
        return paired.drop_of_metric(metric, often, np.stack([first, first + len(kinds)], axis=1), confidence, seed)

    def _worth(self, counts: Ids) -> dict[str, float]:
        """Return every metric, the headline metric first. counts: of `metrics.entity_counts`, (rows, 3)."""
        right, predicted, expected = counts.sum(axis=0).tolist()
        return {
            self.metric: metrics.f1_of(right, predicted, expected),
            "precision": right / predicted if predicted else 0.0,
            "recall": right / expected if expected else 0.0,
        }

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002
        """Return the tags."""
        return {"tags": cut_words(answer)}


def _counts(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> Ids:
    return np.array(list(map(metrics.entity_counts, predicted, expected)), np.int64)
