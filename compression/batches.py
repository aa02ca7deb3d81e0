"""Texts to padded tensors: tokenized once, rows of like length together, each batch padded to its longest row only."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

POOL = 50
"""Batches whose rows are sorted by length together: enough to save most padding, few enough to keep batches random."""


@dataclass(frozen=True)
class Batch:
    """Rows side by side. ids, mask: (rows, tokens), mask 1 at real tokens; labels, rows: (rows,)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`; `rows` stay where the bookkeeping is."""
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device), self.rows)

    def split(self, parts: int) -> "list[Batch]":
        """Cut into at most `parts` batches of about as many rows each, every one padded to its own longest row."""
        if parts == 1:
            return [self]
        size = -(-len(self.rows) // parts)
        pieces = zip(*(torch.split(tensor, size) for tensor in (self.ids, self.mask, self.labels, self.rows)), strict=True)
        return [Batch(*piece).trimmed() for piece in pieces]

    def trimmed(self) -> "Batch":
        """Drop columns in which every row is padding."""
        longest = int(self.mask.sum(dim=1).max())
        return Batch(self.ids[:, :longest], self.mask[:, :longest], self.labels, self.rows)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a stock encoder takes."""
        return {"input_ids": self.ids, "attention_mask": self.mask}


@dataclass(frozen=True)
class Encoded:
    """A tokenized split. `tokens` holds the ids of each row, unpadded; labels: (rows,)."""

    tokens: list[list[int]]
    labels: Tensor
    padding: int

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, rows: list[int]) -> "Encoded":
        """Return the rows named, in that order."""
        return Encoded([self.tokens[row] for row in rows], self.labels[rows], self.padding)

    def batch(self, rows: list[int]) -> Batch:
        """Pad the rows named to the longest of them."""
        longest = max(len(self.tokens[row]) for row in rows)
        ids = torch.full((len(rows), longest), self.padding)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for line, row in enumerate(rows):
            found = self.tokens[row]
            ids[line, : len(found)] = torch.tensor(found)
            mask[line, : len(found)] = 1
        return Batch(ids, mask, self.labels[rows], torch.tensor(rows))

    def by_length(self, size: int) -> Iterator[Batch]:
        """Go through all rows once, shortest first: for evaluation, where order means nothing."""
        order = sorted(range(len(self)), key=lambda row: len(self.tokens[row]))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """Go through all rows once in an order given by `seed`, rows of like length together."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).tolist()
        plan: list[list[int]] = []
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=lambda row: len(self.tokens[row]))
            plan += [pool[i : i + size] for i in range(0, len(pool), size)]
        for number in torch.randperm(len(plan), generator=generator).tolist():
            yield self.batch(plan[number])


def steps(rows: int, size: int) -> int:
    """Count the batches of one pass."""
    return -(-rows // size)


def together(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Hand out `count` batches at a time; the last hand may hold fewer."""
    while hand := list(islice(batches, count)):
        yield hand


def encode(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...], labels: list[int], max_length: int) -> Encoded:
    """Tokenize a split once; longer texts are cut to `max_length` tokens."""
    tokens = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    return Encoded(tokens, torch.tensor(labels), int(tokenizer.pad_token_id))
