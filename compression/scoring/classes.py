"""Classification, of one text or of a pair: accuracy, F1 and Matthews' correlation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from compression.errors import InvalidSpec
from compression.recipe import Evaluate
from compression.scoring import errors, metrics
from compression.scoring.base import Asked, Figures, Floats, Row, differing, one_window, texts_of
from compression.scoring.metrics import Ids


@dataclass(frozen=True)
class ClassScorer:
    """`metric` is the headline; `positive` the label whose F1 counts, None for the mean over all."""

    metric: str
    labels: int
    positive: int | None

    @classmethod
    def of(cls, evaluate: Evaluate, labels: tuple[str, ...]) -> "ClassScorer":
        """Read what the job asks for. Raises InvalidSpec where it names a label that there is not."""
        metric = "accuracy" if evaluate.metric == "auto" else evaluate.metric
        if evaluate.positive is not None and evaluate.positive not in labels:
            raise InvalidSpec(f"no label {evaluate.positive!r}; there are: {', '.join(labels)}", param="evaluate.positive")
        last = len(labels) - 1 if len(labels) == 2 else None
        return cls(metric, len(labels), last if evaluate.positive is None else labels.index(evaluate.positive))

    @property
    def formulas(self) -> dict[str, Callable[[Ids, Ids], float]]:
        """Every metric, the headline first."""
        positive = self.positive
        every: dict[str, Callable[[Ids, Ids], float]] = {
            "accuracy": metrics.accuracy,
            "f1": lambda found, wanted: (
                metrics.macro_f1(found, wanted, self.labels) if positive is None else metrics.f1(found, wanted, positive)
            ),
            "matthews": lambda found, wanted: metrics.matthews(found, wanted, self.labels),
        }
        return {self.metric: every[self.metric], **every}

    def score(self, found: Ids, wanted: Ids) -> float:
        """The headline metric."""
        return self.formulas[self.metric](found, wanted)

    def chance(self, wanted: Ids) -> float:
        """The headline metric of always answering the most frequent label."""
        return self.score(np.full_like(wanted, np.bincount(wanted).argmax()), wanted)

    def ask(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> Asked:
        """Each row is one window."""
        return one_window(tokenizer, [texts_of(row) for row in rows])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:  # noqa: ARG002
        """The id of the largest logit."""
        return [int(one.argmax()) for one in logits]

    def figures(self, answers: Sequence[Any], rows: Sequence[Row]) -> Figures:
        """Judge ids; a row's `label` is one too."""
        found, wanted = np.array(answers, np.int64), np.array([row["label"] for row in rows], np.int64)
        values = {name: formula(found, wanted) for name, formula in self.formulas.items()}
        if self.metric == "accuracy":
            return Figures(values, errors.of_share(values["accuracy"], len(rows)), "analytic", self.chance(wanted))
        error = errors.by_bootstrap(lambda some: self.score(found[some], wanted[some]), len(rows))
        return Figures(values, error, "bootstrap", self.chance(wanted))

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Rows with another label."""
        return differing(alone, together)
