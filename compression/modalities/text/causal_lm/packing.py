"""Packs documents into training rows, as many as fit; no document attends to another."""

from bisect import bisect_left, insort
from collections.abc import Iterator

import torch
from torch import Tensor

from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.documents import TokenizedDocuments
from compression.modalities.text.text_reader import Stretch


class Packed:
    """Documents in rows of at most `length` tokens; each token that follows another is a target exactly once.

    A longer document is cut into pieces; the token after a piece is its last target and the next piece's first input. Pieces
    are packed by best fit, the longest first (Ding et al. 2024), and never change, so a teacher's outputs can be stored. The
    tokenizer's affix after a text is a target, so that the model learns to end a text; the affix before it is not.
    """

    def __init__(self, documents: TokenizedDocuments, length: int) -> None:
        self._ids = documents.ids
        self._rows = packed(pieces(documents, length), length)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, rows: list[int]) -> "Packed":
        """Return the rows with these indices, in this order."""
        some = object.__new__(Packed)
        some._ids, some._rows = self._ids, [self._rows[row] for row in rows]
        return some

    def ids_of(self, row: int) -> Tensor:
        """Return a row's input tokens, (tokens,), document after document."""
        return torch.cat([self._ids[start:end] for start, end, _ in self._rows[row]])

    @property
    def asked(self) -> list[int]:
        """Return the number of target tokens of each row."""
        return [sum(end + 1 - first for _, end, first in row) for row in self._rows]

    def batch(self, rows: list[int]) -> PackedBatch:
        """Return a batch of the rows with these indices."""
        return PackedBatch.of(rows, [self._rows[row] for row in rows], self._ids)

    def in_order(self, size: int) -> Iterator[PackedBatch]:
        """Yield every row once, in batches, in packing order: rows of similar length are neighbours."""
        for start in range(0, len(self), size):
            yield self.batch(list(range(start, min(start + size, len(self)))))

    def shuffled(self, size: int, seed: int) -> Iterator[PackedBatch]:
        """Yield every row once, in batches, in an order that `seed` determines."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])


def pieces(documents: TokenizedDocuments, length: int) -> list[Stretch]:
    """Cut documents into pieces of at most `length` input tokens. A document's last token is never an input."""
    stretches = []
    for start, end in zip(documents.starts.tolist(), documents.ends.tolist(), strict=True):
        last = end - 1
        for at in range(start, last, length):
            stop, first = min(at + length, last), max(at + 1, start + documents.lead)
            if first <= stop:  # otherwise the piece has only affixes
                stretches.append((at, stop, first))
    return stretches


def packed(stretches: list[Stretch], length: int) -> list[list[Stretch]]:
    """Pack stretches into rows of at most `length` tokens by best fit, the longest first (Johnson 1973)."""
    rows: list[list[Stretch]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # sorted; those for which `by_room` has rows
    for stretch in sorted(stretches, key=lambda one: (one[0] - one[1], one[0])):
        size = stretch[1] - stretch[0]
        at = bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            row = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(at)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(stretch)
        left = room - size
        if left:
            if not by_room.get(left):
                insort(rooms, left)
            by_room.setdefault(left, []).append(row)
    return rows
