"""Regression scores, as GLUE scores STS-B: the mean of Pearson's and Spearman's correlation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.modalities.scoring import metrics, paired, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.schema.report.gate import PairedDrop

FEWEST_ROWS = 50
"""Rows for bounds of a correlation: at 5 rows a 95 % bound holds in 68 % of made sets, at 50 in 93 % and more
(docs/decisions/0067)."""
SAME = 1e-2
"""Predictions differ if they are further apart than this share of all predictions' range; rounding changes them less."""


class NumberScorer(RowScorer):
    """Scores by both correlations and their mean."""

    metric = "pearson_spearman"

    def score(self, predicted: Numbers, expected: Numbers) -> float:
        """Return the headline metric."""
        return self._worth((predicted, expected, metrics.places(predicted), metrics.places(expected)))[self.metric]

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:  # noqa: ARG002
        """Return the one output of each row."""
        return [float(one[0]) for one in logits]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score numbers; a row's `label` is a number too."""
        return self._worth(_sides(answers, rows))

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Return the metrics; all errors are the bootstrap's."""
        sides = _sides(answers, rows)
        draws = standard_errors.resampled(lambda some: self._worth([side[some] for side in sides]), len(rows), seed=seed)
        return Figures(self._worth(sides), standard_errors.deviations(draws, len(rows)), "bootstrap", 0.0, draws[self.metric])

    def _worth(self, sides: Sequence[npt.NDArray[Any]]) -> dict[str, float]:
        """Return every metric, the headline metric first. sides: of `_sides`, or some rows of them."""
        predicted, expected, *places = sides
        linear, ranked = metrics.pearson(predicted, expected), metrics.pearson(*map(metrics.ranks, places))
        return {self.metric: (linear + ranked) / 2, "pearson": linear, "spearman": ranked}

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Return the number of rows whose predictions differ by more than rounding."""
        one, other = np.array(alone), np.array(together)
        return int((np.abs(one - other) > SAME * np.ptp(one)).sum())

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
        """Return the predicted and the true number of each row."""
        return np.stack(_sides(answers, rows)[:2], axis=1)

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:
        """Return how much worse the mean of both correlations is. One more row is as the one that gained or lost most: nothing
        bounds how far a number may be off. Raises UnpairedRows for fewer than FEWEST_ROWS, on which bounds miss too often.
        """
        paired.check_pairs(before[:, 1], after[:, 1])
        expected = before[:, 1]
        if len(expected) < FEWEST_ROWS:
            raise paired.UnpairedRows(f"{len(expected)} rows are too few to bound a correlation, which takes {FEWEST_ROWS}")
        wanted, *given = (_standardised(side) for side in (expected, before[:, 0], after[:, 0]))
        lost = (given[1] - wanted) ** 2 - (given[0] - wanted) ** 2
        most = np.tile([lost.argmax(), lost.argmin()], (len(expected), 1))

        def metric(weights: Numbers) -> tuple[Numbers, Numbers]:
            order = metrics.weighted_ranks(expected, weights)
            linear, ranked = [], []
            for predicted in (before[:, 0], after[:, 0]):
                linear.append(metrics.weighted_pearson(predicted, expected, weights))
                ranked.append(metrics.weighted_pearson(metrics.weighted_ranks(predicted, weights), order, weights))
            return (linear[0] + ranked[0]) / 2, (linear[1] + ranked[1]) / 2

        return paired.drop_of_metric(metric, np.ones(len(expected)), most, confidence, seed)

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002
        """Return the number."""
        return {"value": answer}


def _standardised(values: Numbers) -> Numbers:
    centred: Numbers = values - values.mean()
    return centred / (float(values.std()) or 1.0)


def _sides(answers: Sequence[Any], rows: Sequence[Row]) -> tuple[Numbers, Numbers, Ids, Ids]:
    predicted, expected = np.array(answers, np.float64), np.array([row["label"] for row in rows], np.float64)
    return predicted, expected, metrics.places(predicted), metrics.places(expected)
