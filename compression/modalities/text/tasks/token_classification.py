"""Token classification: a tag for each word, read off the word's first token."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.base import Batch, Examples, SmallOutputTask
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.recipe.base import Task as Name

IGNORED = -100
"""In the place of a label: tokens that do not begin a word, and padding."""


@dataclass(frozen=True)
class TokenClassification(SmallOutputTask):
    """Labels: (rows, tokens) of ids, IGNORED where there is none, as wide as the split's longest row at least.

    logits: (rows, tokens, labels).
    """

    scorer: TagScorer
    name: Name = "token-classification"

    def counts(self, labels: Tensor) -> Tensor:
        """One answer to each word; a row without labels counts for one, so that its teacher is heard."""
        return (labels != IGNORED).sum(dim=1).clamp(min=1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, mean over words."""
        labels = batch.labels[:, : logits.shape[1]]
        whole = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return whole / (labels != IGNORED).sum().clamp(min=1)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """KL divergence over the labels, mean over all real tokens: the teacher knows of those too that begin no word."""
        real = batch.mask.bool()
        return losses.soft_target_loss(student[real], teacher[:, : student.shape[1]][real], temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:  # noqa: ARG002
        """The mean of the softened distributions over the labels."""
        return losses.fuse_teachers(logits, weights, temperature)

    def score(self, logits: Tensor, rows: Examples) -> float:
        """F1 of entities. Words that were cut off are left out here; the artifact's score counts them as missed."""
        names, found, wanted = self.scorer.labels, [], []
        for best, labels in zip(logits.argmax(dim=-1), rows.labels[:, : logits.shape[1]], strict=True):
            there = labels != IGNORED
            found.append([names[int(tag)] for tag in best[there]])
            wanted.append([names[int(tag)] for tag in labels[there]])
        return self.scorer.score(found, wanted)

    def chance(self, rows: Examples) -> float:  # noqa: ARG002
        """Whoever tags nothing finds no entity."""
        return 0.0
