"""Classification scores: accuracy, F1, the mean of both, and Matthews' correlation."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import numpy as np

from compression.modalities.scoring import metrics, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer, softmax
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Evaluate

MOST_SCORES = 20  #: maximum number of labels to show with their probabilities


@dataclass(frozen=True)
class ClassScorer(RowScorer):
    """Scores classification. `positive` is the label whose F1 counts, None for the mean over all labels."""

    metric: str
    labels: int
    positive: int | None

    @classmethod
    def of(cls, evaluate: Evaluate, labels: tuple[str, ...]) -> Self:
        """Create the scorer for a job's settings. Raises InvalidSpec if they name an unknown label."""
        metric = "accuracy" if evaluate.metric == "auto" else evaluate.metric
        if evaluate.positive is not None and evaluate.positive not in labels:
            raise InvalidSpec(f"no label {evaluate.positive!r}; there are: {', '.join(labels)}", param="evaluate.positive")
        last = len(labels) - 1 if len(labels) == 2 else None
        return cls(metric, len(labels), last if evaluate.positive is None else labels.index(evaluate.positive))

    def worth(self, predicted: Ids, expected: Ids, times: Ids | None = None) -> dict[str, float]:
        """Return every metric, the headline metric first. All (rows,); times: how often each row counts."""
        every = self.every(metrics.label_counts(predicted, expected, self.labels, times))
        return {self.metric: every[self.metric], **every}

    def every(self, counts: Numbers) -> dict[str, float]:
        """Return every metric. counts: of `metrics.label_counts`."""
        accuracy = metrics.accuracy(counts)
        f1 = metrics.macro_f1(counts) if self.positive is None else metrics.f1(counts, self.positive)
        # GLUE's score for MRPC and QQP is the mean of both (Wang et al. 2018).
        return {"accuracy": accuracy, "f1": f1, "accuracy_f1": (accuracy + f1) / 2, "matthews": metrics.matthews(counts)}

    def score(self, predicted: Ids, expected: Ids) -> float:
        """Return the headline metric."""
        return self.worth(predicted, expected)[self.metric]

    def chance(self, expected: Ids) -> float:
        """Return the headline metric of always predicting the most frequent label."""
        return self.score(np.full_like(expected, np.bincount(expected).argmax()), expected)

    def stratum(self, row: Row) -> Hashable:
        """Return the row's label."""
        return cast(Hashable, row["label"])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:  # noqa: ARG002
        """Return the id of the largest logit of each row."""
        return [int(one.argmax()) for one in logits]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score ids; a row's `label` is an id too."""
        return self.worth(*_sides(answers, rows))

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Return the metrics; accuracy's error has a formula, the other errors are the bootstrap's."""
        predicted, expected = _sides(answers, rows)
        values = self.worth(predicted, expected)
        # Rows with the same label and prediction are equivalent: counting them in a sample takes a fraction of the time of
        # scoring it.
        pairs, kinds = np.unique(predicted * self.labels + expected, return_inverse=True)
        sides, kinds = np.divmod(pairs, self.labels), kinds.astype(np.min_scalar_type(len(pairs)))
        draws = standard_errors.resampled(
            lambda some: self.worth(*sides, np.bincount(kinds[some], minlength=len(pairs))), len(rows), seed=seed
        )
        error = standard_errors.deviations(draws) | {"accuracy": standard_errors.of_share(values["accuracy"], len(rows))}
        source: Literal["analytic", "bootstrap"] = "analytic" if self.metric == "accuracy" else "bootstrap"
        return Figures(values, error, source, self.chance(expected), draws[self.metric])

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return the label, and the most likely labels with their probabilities."""
        shares = softmax(logits)
        best = sorted(range(len(shares)), key=lambda place: -shares[place])[:MOST_SCORES]
        return {"label": labels[answer], "scores": {labels[place]: shares[place] for place in best}}


def _sides(answers: Sequence[Any], rows: Sequence[Row]) -> tuple[Ids, Ids]:
    return np.array(answers, np.int64), np.array([row["label"] for row in rows], np.int64)
