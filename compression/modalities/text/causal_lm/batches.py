"""Batches of packed rows, with the next token at each scored position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from compression.modalities.text.batches import Batch
from compression.modalities.text.text_reader import Stretch

NOBODY = -100  #: label of positions that are not scored: padding, a text's last token, tokens that are scored elsewhere


@dataclass(frozen=True, kw_only=True)
class PackedBatch(Batch):
    """A batch whose rows are packed documents; labels: the next token's id, or NOBODY; all (rows, tokens).

    Positions restart with each document of a row, which lets stock models separate documents. Padding is on the right.
    """

    INPUTS: ClassVar[tuple[str, ...]] = ("ids", "mask", "positions", "labels")
    positions: Tensor

    @classmethod
    def of(cls, rows: Sequence[int], parts: Sequence[Sequence[Stretch]], ids: Tensor) -> "PackedBatch":
        """Create a batch from each row's parts, padded to the longest row. ids: (tokens,), which stretches index."""
        width = max(sum(end - start for start, end, _ in row) for row in parts)
        tokens, mask, positions = torch.zeros((3, len(rows), width), dtype=torch.long)
        labels = torch.full_like(tokens, NOBODY)
        for line, row in enumerate(parts):
            at = 0
            for start, end, first in row:
                stop = at + end - start
                tokens[line, at:stop] = ids[start:end]
                labels[line, at + first - 1 - start : stop] = ids[first : end + 1]
                positions[line, at:] = torch.arange(width - at)
                at = stop
            mask[line, :at] = 1
        return cls(ids=tokens, mask=mask, positions=positions, labels=labels, rows=torch.tensor(rows))

    def trimmed(self) -> Self:
        """Return the batch itself: packed rows have little padding."""
        return self

    @property
    def weight(self) -> int:
        """Return the number of tokens that a loss on these rows is a mean over."""
        return int(self.asked.sum())

    @property
    def asked(self) -> Tensor:
        """Return the mask of the scored positions, (rows, tokens)."""
        return self.labels != NOBODY

    @property
    def wanted(self) -> Tensor:
        """Return the next tokens of the scored positions, row after row, (asked,)."""
        return self.labels[self.asked]

    @property
    def inputs(self) -> dict[str, Any]:
        """Return a stock causal model's inputs: without cache and mask, positions tell it where documents end."""
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}


def attention_mask(positions: Tensor) -> Tensor:
    """Return the causal attention mask within documents. positions: (rows, tokens) -> (rows, tokens, tokens), boolean."""
    begun = positions.diff(dim=1, prepend=positions[:, :1] - 1) <= 0
    document = begun.cumsum(dim=1)
    together: Tensor = document[:, :, None] == document[:, None, :]
    return together.tril()
