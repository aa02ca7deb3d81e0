"""Extractive question answering: where in the context the answer begins and ends, or that there is none."""

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

NOWHERE = -1e9
"""A logit that no position with it is chosen for; finite, because −∞ less −∞ is no number."""


@dataclass(frozen=True)
class References:
    """What a split's windows are judged by. owners: the row of each window; contexts, answers: of each row."""

    windows: tuple[Window, ...]
    owners: tuple[int, ...]
    contexts: Sequence[str]
    answers: Sequence[Sequence[str]]

    def at(self, windows: list[int]) -> "References":
        """Keep the windows named, in that order."""
        chosen = tuple(self.windows[i] for i in windows), tuple(self.owners[i] for i in windows)
        return References(*chosen, self.contexts, self.answers)


@dataclass(frozen=True)
class QuestionAnswering(SmallOutputTask):
    """A row is a window. Labels: (rows, 2), the answer's first and last token, both 0 where it is not whole in the window.

    logits: (rows, tokens, 2), how likely each token is the first, and the last.
    """

    scorer: QuestionScorer
    name: Name = "question-answering"

    def logits(self, output: Any) -> Tensor:
        """(rows, tokens, 2)."""
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the real positions, mean of both ends."""
        return functional.cross_entropy(_real(logits, batch.mask), batch.labels)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """KL divergence over the real positions, mean of both ends."""
        given, wanted = (
            _real(side[:, : student.shape[1]], batch.mask).transpose(1, 2).flatten(0, 1) for side in (student, teacher)
        )
        return losses.soft_target_loss(given, wanted, temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """The mean of the softened distributions over the real positions, for either end."""
        assert mask is not None, "answers are places"  # noqa: S101
        places = torch.stack([_real(each, mask) for each in logits]).transpose(2, 3)
        return losses.fuse_teachers(places, weights, temperature).transpose(1, 2)

    def score(self, logits: Tensor, rows: Examples) -> float:
        """F1 of the answers' words, mean over questions. Raises ValueError for a split that was encoded to learn from only."""
        known = rows.references
        if known is None:
            raise ValueError("these rows carry nothing to judge answers by")
        own: dict[int, tuple[list[Window], list[Any]]] = {}
        for window, row, length, one in zip(known.windows, known.owners, rows.lengths, logits.numpy(), strict=True):
            windows, found = own.setdefault(row, ([], []))
            windows.append(window)
            found.append(one[:length])
        shares = [overlap(answer(*each, known.contexts[row]), known.answers[row]) for row, each in own.items()]
        return sum(shares) / len(shares)

    def chance(self, rows: Examples) -> float:
        """Never an answer."""
        asked = rows.references.answers if rows.references is not None else ()
        return sum(not answers for answers in asked) / max(len(asked), 1)


def _real(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(mask[:, :, None] == 0, NOWHERE)
