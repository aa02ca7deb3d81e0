"""Regression of one text or of a pair, as GLUE judges STS-B: the mean of Pearson's and Spearman's correlation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from compression.scoring import errors, metrics
from compression.scoring.base import Asked, Figures, Floats, Row, one_window, texts_of
from compression.scoring.metrics import Numbers

SAME = 1e-2
"""Answers differ where they are further apart than this share of all answers' spread; other rounding does less."""


class NumberScorer:
    """Both correlations, and their mean."""

    metric = "pearson_spearman"

    def score(self, found: Numbers, wanted: Numbers) -> float:
        """The headline metric."""
        return (metrics.pearson(found, wanted) + metrics.spearman(found, wanted)) / 2

    def ask(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> Asked:
        """Each row is one window."""
        return one_window(tokenizer, [texts_of(row) for row in rows])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:  # noqa: ARG002
        """The one output."""
        return [float(one[0]) for one in logits]

    def figures(self, answers: Sequence[Any], rows: Sequence[Row]) -> Figures:
        """Judge numbers; a row's `label` is one too."""
        found, wanted = np.array(answers, np.float64), np.array([row["label"] for row in rows], np.float64)
        values = {
            self.metric: self.score(found, wanted),
            "pearson": metrics.pearson(found, wanted),
            "spearman": metrics.spearman(found, wanted),
        }
        error = errors.by_bootstrap(lambda some: self.score(found[some], wanted[some]), len(rows))
        return Figures(values, error, "bootstrap", chance=0.0)

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Rows whose numbers differ by more than rounding."""
        one, other = np.array(alone), np.array(together)
        return int((np.abs(one - other) > SAME * np.ptp(one)).sum())
