"""Extractive question answering: predicts the answer's start and end in the context, or no answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.base import Batch, Examples, SmallOutputTask
from compression.modalities.scoring.metrics import overlap
from compression.modalities.text.scoring.question_answering import QuestionScorer, Window, answer
from compression.schema.recipe.base import Task as Name

NOWHERE = -1e9  #: logit of masked positions, so low that none is chosen; finite, because −∞ − (−∞) is NaN


@dataclass(frozen=True)
class References:
    """The references that score a split's windows. owners: the row of each window; contexts, answers: of each row."""

    windows: tuple[Window, ...]
    owners: tuple[int, ...]
    contexts: Sequence[str]
    answers: Sequence[Sequence[str]]

    def at(self, windows: list[int]) -> "References":
        """Return the references of the windows with these indices, in this order."""
        chosen = tuple(self.windows[i] for i in windows), tuple(self.owners[i] for i in windows)
        return References(*chosen, self.contexts, self.answers)


@dataclass(frozen=True)
class QuestionAnswering(SmallOutputTask):
    """Extractive question answering. A row is a window. logits: (rows, tokens, 2) of the answer's first token, its last.

    Labels: (rows, 2), the answer's first and last token, both 0 if it is not whole in the window.
    """

    scorer: QuestionScorer
    name: Name = "question-answering"

    def logits(self, output: Any) -> Tensor:
        """Return the start and end logits, (rows, tokens, 2)."""
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy over the real positions, mean of start and end."""
        return functional.cross_entropy(_real(logits, batch.mask), batch.labels)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return the KL divergence over the real positions, mean of start and end."""
        given, wanted = (
            _real(side[:, : student.shape[1]], batch.mask).transpose(1, 2).flatten(0, 1) for side in (student, teacher)
        )
        return losses.soft_target_loss(given, wanted, temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """Return the mean of the softened distributions over the real positions, for start and end."""
        assert mask is not None, "answers are places"  # noqa: S101
        places = torch.stack([_real(each, mask) for each in logits]).transpose(2, 3)
        return losses.fuse_teachers(places, weights, temperature).transpose(1, 2)

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Return F1 of the answers' words, mean over questions. Raises ValueError for a split without references (train)."""
        known = rows.references
        if known is None:
            raise ValueError("these rows have no references to score answers by")
        own: dict[int, tuple[list[Window], list[Any]]] = {}
        for window, row, length, one in zip(known.windows, known.owners, rows.lengths, logits.numpy(), strict=True):
            windows, found = own.setdefault(row, ([], []))
            windows.append(window)
            found.append(one[:length])
        shares = [overlap(answer(*each, known.contexts[row]), known.answers[row]) for row, each in own.items()]
        return sum(shares) / len(shares)

    def chance(self, rows: Examples) -> float:
        """Return the score of always predicting "no answer"."""
        asked = rows.references.answers if rows.references is not None else ()
        return sum(not answers for answers in asked) / max(len(asked), 1)


def _real(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(mask[:, :, None] == 0, NOWHERE)
