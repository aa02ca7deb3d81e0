"""Scores classifiers of images: accuracy, top-5 accuracy and balanced accuracy. Torch-free."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compression.modalities.image.scoring.reader import ImageReader
from compression.modalities.scoring import metrics, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.metrics import Numbers

TOP = 5
TOP_METRIC = "top5_accuracy"


class ImageClassScorer(ClassScorer):
    """Scores classes. An answer is the ids of the largest logits, at most TOP, the largest first."""

    def reader(self, folder: Path, pad_id: int | None = None) -> ImageReader:  # noqa: ARG002
        """Open the reader of an artifact's own files."""
        return ImageReader(folder)

    def every(self, counts: Numbers) -> dict[str, float]:
        """Return the metrics of the labels with the largest logits. counts: of `metrics.label_counts`."""
        return {"accuracy": metrics.accuracy(counts), "balanced_accuracy": metrics.balanced_accuracy(counts)}

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:  # noqa: ARG002
        """Return the ids of the largest logits of each row."""
        return [tuple(np.argsort(-one, kind="stable")[:TOP].tolist()) for one in logits]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score ids; a row's `label` is an id too."""
        return super().values(_first(answers), rows) | self._top(answers, rows)

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Return the metrics; the errors of shares have a formula, that of balanced accuracy is the bootstrap's."""
        found, top = super().figures(_first(answers), rows, seed), self._top(answers, rows)
        errors = {name: standard_errors.of_share(share, len(rows)) for name, share in top.items()}
        return replace(found, values=found.values | top, standard_errors=found.standard_errors | errors)

    def _top(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Return the share of rows whose label is among the answers; nothing if that is true of any row."""
        if self.labels <= TOP:
            return {}
        right = sum(row["label"] in answer for answer, row in zip(answers, rows, strict=True))
        return {TOP_METRIC: right / len(rows)}

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
        """Return the predicted and the true id of each row."""
        return super().by_row(_first(answers), rows)

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Return the number of rows whose predicted labels differ."""
        return super().changed(_first(alone), _first(together))

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return the label, and the most likely labels with their probabilities."""
        return super().shown(answer[0], logits, labels)


def _first(answers: Sequence[Any]) -> list[int]:
    return [answer[0] for answer in answers]
