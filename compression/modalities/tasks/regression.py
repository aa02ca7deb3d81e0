"""Regression of a text or of a pair: predicts a number, such as STS-B's similarity from 0 to 5."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities.base import Batch, Examples, SmallOutputTask
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.tasks import linear_models
from compression.schema.recipe.base import Task as Name


@dataclass(frozen=True)
class Regression(SmallOutputTask):
    """One number per row. Labels: (rows,) of floats; logits: (rows, 1), in the data's own unit."""

    scorer: NumberScorer
    name: Name = "text-regression"

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(logits[:, 0].float(), batch.labels)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the mean squared error against the teacher's number (TinyBERT, Jiao et al. 2020). No temperature applies."""
        return functional.mse_loss(student.float(), teacher.float())

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the weighted mean of the teachers' numbers."""
        return torch.einsum("t,t...->...", weights / weights.sum(), logits)

    def linear_logits(self, features: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Return predictions from ridge regression, (others, 1)."""
        return torch.from_numpy(linear_models.numbers(features.numpy(), labels.numpy(), asked.numpy()))

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Return the mean of Pearson's and Spearman's correlation."""
        return self.scorer.score(logits[:, 0].numpy().astype(np.float64), rows.labels.numpy().astype(np.float64))

    def chance(self, rows: Examples) -> float:  # noqa: ARG002
        """Return 0: a constant prediction has no correlation."""
        return 0.0
