"""Token classification: predicts a tag for each word, at the word's first token."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.base import Batch, Examples, SmallOutputTask
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.recipe.base import Task as Name

IGNORED = -100  #: label of tokens that do not begin a word, and of padding


@dataclass(frozen=True)
class TokenClassification(SmallOutputTask):
    """One tag per word. Labels: (rows, tokens of the longest row or more), IGNORED if none; logits: (rows, tokens, labels)."""

    scorer: TagScorer
    name: Name = "token-classification"

    def counts(self, labels: Tensor) -> Tensor:
        """Return the number of words of each row; a row without labels counts as one, for its soft loss."""
        return (labels != IGNORED).sum(dim=1).clamp(min=1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy, mean over words."""
        labels = batch.labels[:, : logits.shape[1]]
        whole = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return whole / (labels != IGNORED).sum().clamp(min=1)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return the KL divergence over the labels, mean over all real tokens, those inside words too."""
        real = batch.mask.bool()
        return losses.soft_target_loss(student[real], teacher[:, : student.shape[1]][real], temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the mean of the softened distributions over the labels."""
        return losses.fuse_teachers(logits, weights, temperature)

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Return F1 of entities. It leaves truncated words out; the artifact's score counts them as missed."""
        names, found, wanted = self.scorer.labels, [], []
        for best, labels in zip(logits.argmax(dim=-1), rows.labels[:, : logits.shape[1]], strict=True):
            there = labels != IGNORED
            found.append([names[int(tag)] for tag in best[there]])
            wanted.append([names[int(tag)] for tag in labels[there]])
        return self.scorer.score(found, wanted)

    def chance(self, rows: Examples) -> float:  # noqa: ARG002
        """Return 0: a model that tags nothing finds no entity."""
        return 0.0
