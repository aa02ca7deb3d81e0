"""Rows of tokens side by side, and which token comes next at each place where it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compression.modalities.text.batches import Batch
from compression.modalities.text.text_reader import Stretch

NOBODY = -100
"""In the place of the next token: nobody is asked for it. Padding, a text's last token, what was asked for elsewhere."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch(Batch):
    """A batch whose rows have documents side by side. ids, mask, positions, labels: (rows, tokens); rows: (rows,), whose.

    labels: the id that comes next, or NOBODY. Positions begin anew with each document of a row, by which stock models tell
    documents apart. Padding is to the right and goes on where the last document ends; what comes before it cannot see it.
    """

    positions: Tensor

    @classmethod
    def of(cls, rows: Sequence[int], parts: Sequence[Sequence[Stretch]], ids: Tensor) -> "PackedBatch":
        """Lay each row's parts side by side, padded to the longest row. ids: (tokens,) that stretches lie in."""
        width = max(sum(end - start for start, end, _ in row) for row in parts)
        found = torch.zeros((len(rows), width), dtype=torch.long)
        mask, positions = torch.zeros_like(found), torch.zeros_like(found)
        labels = torch.full_like(found, NOBODY)
        for line, row in enumerate(parts):
            at = 0
            for start, end, first in row:
                stop = at + end - start
                found[line, at:stop] = ids[start:end]
                labels[line, at + first - 1 - start : stop] = ids[first : end + 1]
                positions[line, at:] = torch.arange(width - at)
                at = stop
            mask[line, :at] = 1
        return cls(ids=found, mask=mask, positions=positions, labels=labels, rows=torch.tensor(rows))

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the rows with their tensors on `device`; `rows` stay where the bookkeeping is."""
        return self._each(lambda column: column.to(device))

    def split(self, parts: int) -> "list[PackedBatch]":  # type: ignore[override]  # a list of these is all that a caller reads
        """Cut into at most `parts` of about as many rows each."""
        size = -(-len(self.rows) // parts)
        return [self.at(slice(at, at + size)) for at in range(0, len(self.rows), size)]

    def at(self, where: slice | Tensor) -> "PackedBatch":
        """Return some of the rows: a slice of them, or those where a mask says so. where: (rows,) of truth values."""
        rows = self.rows[where.to(self.rows.device) if isinstance(where, Tensor) else where]
        return replace(self._each(lambda column: column[where]), rows=rows)

    def trimmed(self) -> "PackedBatch":
        """Drop columns in which every row is padding."""
        longest = int(self.mask.sum(dim=1).max())
        return self._each(lambda column: column[:, :longest])

    def _each(self, made: Callable[[Tensor], Tensor]) -> "PackedBatch":
        columns = {name: made(getattr(self, name)) for name in ("ids", "mask", "positions", "labels")}
        return PackedBatch(rows=self.rows, **columns)

    @property
    def weight(self) -> int:
        """Say over how many tokens a loss of these rows is a mean."""
        return int(self.asked.sum())

    @property
    def asked(self) -> Tensor:
        """Return where a next token is asked for, (rows, tokens)."""
        return self.labels != NOBODY

    @property
    def wanted(self) -> Tensor:
        """Return the next tokens that are asked for, row after row, (asked,)."""
        return self.labels[self.asked]

    @property
    def inputs(self) -> dict[str, Any]:
        """What a stock causal model takes. Without a cache and a mask it reads from positions where documents end."""
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}


def attention_mask(positions: Tensor) -> Tensor:
    """Say which token is related to which: to those of its own document that are no later, however far a model's window goes.

    positions: (rows, tokens), beginning anew with each document -> (rows, tokens, tokens), truth values.
    """
    begun = positions.diff(dim=1, prepend=positions[:, :1] - 1) <= 0
    document = begun.cumsum(dim=1)
    together: Tensor = document[:, :, None] == document[:, None, :]
    return together.tril()
