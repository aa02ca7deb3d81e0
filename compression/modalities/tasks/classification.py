"""Classification: the model predicts one of the data's labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.base import Batch, Examples, SmallOutputTask
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.tasks import linear_models
from compression.schema.recipe.base import Task as Name


@dataclass(frozen=True)
class Classification(SmallOutputTask):
    """One label per row. Labels: (rows,) of ids, or of mixed rows (rows, labels) of shares; logits: (rows, labels)."""

    name: Name
    scorer: ClassScorer

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy."""
        labels = batch.labels
        return functional.cross_entropy(logits if labels.ndim == 1 else logits.float(), labels)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the KL divergence of the softened distributions over the labels."""
        return losses.soft_target_loss(student, teacher, temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the mean of the softened distributions over the labels."""
        return losses.fuse_teachers(logits, weights, temperature)

    def linear_logits(self, features: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Return log-probabilities from logistic regression, (others, labels)."""
        return torch.from_numpy(linear_models.class_scores(features.numpy(), labels.numpy(), asked.numpy()))

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Return the headline metric of the labels with the largest logits."""
        return self.scorer.score(logits.argmax(dim=-1).numpy(), rows.labels.numpy())

    def chance(self, rows: Examples) -> float:
        """Return the headline metric of always predicting the most frequent label."""
        return self.scorer.chance(rows.labels.numpy())
