"""Classification scores: accuracy, F1, the mean of both, and Matthews' correlation."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import numpy as np

from compression.modalities.scoring import metrics, paired, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer, softmax
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.gate import PairedDrop

MOST_SCORES = 20  #: maximum number of labels to show with their probabilities
FEWEST_OF_LABEL = 10
"""Rows of each of several labels for bounds of a metric that is no mean over rows: with 20 labels, 95 % bounds of F1 hold in 93
and 95 % of 80 made sets of 200 rows, and in 69 and 88 % of sets of 50 (docs/decisions/0067)."""


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
        error = standard_errors.deviations(draws, len(rows))
        error["accuracy"] = standard_errors.of_share(values["accuracy"], len(rows))
        source: Literal["analytic", "bootstrap"] = "analytic" if self.metric == "accuracy" else "bootstrap"
        return Figures(values, error, source, self.chance(expected), draws[self.metric])

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
        """Return the predicted and the true id of each row."""
        return np.stack(_sides(answers, rows), axis=1).astype(np.float64)

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:
        """Return how much worse the metric is: accuracy is a mean over rows, the other metrics are not. Raises UnpairedRows if
        a metric of more than two labels has a label on fewer than FEWEST_OF_LABEL rows, where bounds miss too often.
        """
        paired.check_pairs(before[:, 1], after[:, 1])
        kinds, counts = np.unique(np.stack([before[:, 1], before[:, 0], after[:, 0]], axis=1), axis=0, return_counts=True)
        if self.metric == "accuracy":
            right = [np.equal(kinds[:, 0], kinds[:, side]).astype(np.float64) for side in (1, 2)]
            return paired.drop_of_mean(np.repeat(right[0] - right[1], counts), confidence, seed)
        fewest = int(np.unique(before[:, 1], return_counts=True)[1].min())
        if self.labels > 2 and fewest < FEWEST_OF_LABEL:
            cause = f"a label is on {fewest} rows, and bounds of {self.metric} take {FEWEST_OF_LABEL} of each label"
            raise paired.UnpairedRows(cause)
        every, often, unseen = _with_unseen(kinds.astype(np.int64), counts.astype(np.float64), self.labels)
        labels = range(max(self.labels, 1 + int(every.max())))
        sides = []
        for side in (1, 2):
            wanted, given = (np.equal(every[:, [at]], labels) for at in (0, side))
            sides.append([each.astype(np.float64) for each in (wanted & given, given, wanted)])

        def metric(weights: Numbers) -> tuple[Numbers, Numbers]:
            one, other = (np.stack([weights @ each for each in side], axis=1) for side in sides)
            values = [np.array([self.every(counts)[self.metric] for counts in each]) for each in (one, other)]
            return values[0], values[1]

        return paired.drop_of_metric(metric, often, unseen, confidence, seed)

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return the label, and the most likely labels with their probabilities."""
        shares = softmax(logits)
        best = sorted(range(len(shares)), key=lambda place: -shares[place])[:MOST_SCORES]
        return {"label": labels[answer], "scores": {labels[place]: shares[place] for place in best}}


def _with_unseen(kinds: Ids, counts: Numbers, labels: int) -> tuple[Ids, Numbers, Ids]:
    """Add kinds of rows that were not seen: of each true label one that only the original gets right, and one that only the
    other model does. kinds: (kinds, 3), the true label, the original's and the other's -> kinds, counts, `unseen` of
    `drop_of_metric`. The wrong answer is the most frequent other label.
    """
    often = np.bincount(kinds[:, 0], weights=counts, minlength=labels)
    known = np.unique(kinds[:, 0])
    added = []
    for label in known.tolist():
        wrong = int(np.argmax(np.where(np.arange(len(often)) == label, -1, often)))
        added += [(label, label, wrong), (label, wrong, label)]
    first = len(kinds) + 2 * np.searchsorted(known, np.concatenate([kinds[:, 0], np.repeat(known, 2)]))
    return np.concatenate([kinds, added]), np.append(counts, np.zeros(len(added))), np.stack([first, first + 1], axis=1)


def _sides(answers: Sequence[Any], rows: Sequence[Row]) -> tuple[Ids, Ids]:
    return np.array(answers, np.int64), np.array([row["label"] for row in rows], np.int64)
