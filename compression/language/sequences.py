"""Rows of tokens side by side, and which token comes next at each place where it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NOBODY = -100
"""In the place of the next token: nobody is asked for it. Padding, a text's last token, what was asked for elsewhere."""
Stretch = tuple[int, int, int]
"""A part of a row, (start, end, first): it reads ids[start:end] and is asked for ids[first : end + 1]; first is past start."""


@dataclass(frozen=True)
class Sequences:
    """ids, positions, labels: (rows, tokens); labels: the id that comes next, or NOBODY; rows: (rows,), whose they are.

    Positions begin anew with each document of a row, by which stock models tell documents apart. Padding is to the right and
    goes on where the last document ends; what comes before it cannot see it.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor

    @classmethod
    def of(cls, rows: Sequence[int], parts: Sequence[Sequence[Stretch]], ids: Tensor) -> "Sequences":
        """Lay each row's parts side by side, padded to the longest row. ids: (tokens,) that stretches lie in."""
        width = max(sum(end - start for start, end, _ in row) for row in parts)
        found = torch.zeros((len(rows), width), dtype=torch.long)
        positions = torch.zeros_like(found)
        labels = torch.full_like(found, NOBODY)
        for line, row in enumerate(parts):
            at = 0
            for start, end, first in row:
                stop = at + end - start
                found[line, at:stop] = ids[start:end]
                labels[line, at + first - 1 - start : stop] = ids[first : end + 1]
                positions[line, at:] = torch.arange(width - at)
                at = stop
        return cls(found, positions, labels, torch.tensor(rows))

    def to(self, device: torch.device) -> "Sequences":
        """Return the rows with their tensors on `device`; `rows` stay where the bookkeeping is."""
        return Sequences(self.ids.to(device), self.positions.to(device), self.labels.to(device), self.rows)

    def split(self, parts: int) -> "list[Sequences]":
        """Cut into at most `parts` of about as many rows each."""
        size = -(-len(self.rows) // parts)
        cut = range(0, len(self.rows), size)
        columns = (self.ids, self.positions, self.labels, self.rows)
        return [Sequences(*(column[at : at + size] for column in columns)) for at in cut]

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
