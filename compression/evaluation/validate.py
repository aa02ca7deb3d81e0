"""Runs the engine's own model, to select on validation and to verify exports; reported scores come from the artifact."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compression.modalities.base import Examples
from compression.modalities.logit_store import store_logits
from compression.modalities.sampling import BATCH, micro_batch_size


@dataclass(frozen=True, order=True)
class Validation:
    """A model's validation result; between equal scores, the lower loss is better. score: the task's metric, or if `inverse`
    (perplexity) its inverse, so that higher is always better and retention is a ratio.
    """

    score: float
    negative_loss: float
    inverse: bool = field(default=False, compare=False)

    @property
    def value(self) -> float:
        """Return the task's metric."""
        return 1 / max(self.score, 1e-300) if self.inverse else self.score

    @property
    def worth(self) -> float:
        """Return a score whose differences add up; higher is better. For a perplexity: −log, in nats."""
        return self.negative_loss if self.inverse else self.score

    def __str__(self) -> str:
        return f"{self.value:.4f}"


@torch.inference_mode()
def logits(model: nn.Module, rows: Examples, parts: int = 1) -> Tensor:
    """Return all rows' logits in order, float32 on the CPU: (rows, labels), or (rows, tokens, …) with zeros at padding."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = None
    for batch in rows.by_length(micro_batch_size(BATCH, parts)):
        out = store_logits(out, batch, rows.task.logits(model(**batch.to(device).inputs)), rows)
    model.train(training)
    assert out is not None, "a split has rows"  # noqa: S101
    return out


def validate(model: nn.Module, rows: Examples, parts: int = 1) -> Validation:
    """Score a model on a split by its task's metric; `parts` shrinks the batches. Inputs are in memory batch by batch."""
    if (packed := rows.task.packed) is not None:
        loss = packed.loss(model, rows, parts)
        return Validation(math.exp(-loss), -loss, inverse=True)
    return validation_of(logits(model, rows, parts), rows)


def validation_of(found: Tensor, rows: Examples) -> Validation:
    """Score logits of all rows of a split, as `logits` returns them."""
    return Validation(rows.task.score(found, rows), -rows.task.loss(found, rows.without_inputs()).item())
