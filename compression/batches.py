"""Texts to padded tensors: tokenized once, rows of like length together, each batch padded to its longest row only."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from compression.tasks.base import Task

POOL = 50
"""Batches whose rows are sorted by length together: enough to save most padding, few enough to keep batches random."""


@dataclass(frozen=True)
class Batch:
    """Rows side by side. ids, mask: (rows, tokens), mask 1 at real tokens; labels: as the task has them; rows: (rows,).

    types: (rows, tokens), which text of a pair a token belongs to; None for a model that is told no types.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    rows: Tensor
    types: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`; `rows` stay where the bookkeeping is."""
        types = None if self.types is None else self.types.to(device)
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device), self.rows, types)

    def split(self, parts: int) -> "list[Batch]":
        """Cut into at most `parts` batches of about as many rows each, every one padded to its own longest row."""
        if parts == 1:
            return [self]
        size = -(-len(self.rows) // parts)
        whole = (self.ids, self.mask, self.labels, self.rows, *(() if self.types is None else (self.types,)))
        pieces = zip(*(torch.split(tensor, size) for tensor in whole), strict=True)
        return [Batch(*piece).trimmed() for piece in pieces]

    def trimmed(self) -> "Batch":
        """Drop columns in which every row is padding."""
        longest = int(self.mask.sum(dim=1).max())
        types = None if self.types is None else self.types[:, :longest]
        return Batch(self.ids[:, :longest], self.mask[:, :longest], self.labels, self.rows, types)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a stock encoder takes."""
        types = {} if self.types is None else {"token_type_ids": self.types}
        return {"input_ids": self.ids, "attention_mask": self.mask, **types}


@dataclass(frozen=True)
class Encoded:
    """A split tokenized for a task. `tokens` and `types` hold each row's ids, unpadded; `labels` are of the task's form."""

    tokens: list[list[int]]
    labels: Tensor
    padding: int
    task: Task
    types: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, rows: list[int]) -> "Encoded":
        """Return the rows named, in that order."""
        types = None if self.types is None else [self.types[row] for row in rows]
        return Encoded([self.tokens[row] for row in rows], self.labels[rows], self.padding, self.task, types)

    def batch(self, rows: list[int]) -> Batch:
        """Pad the rows named to the longest of them."""
        longest = max(len(self.tokens[row]) for row in rows)
        ids = torch.full((len(rows), longest), self.padding)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        types = None if self.types is None else torch.zeros_like(mask)
        for line, row in enumerate(rows):
            found = self.tokens[row]
            ids[line, : len(found)] = torch.tensor(found)
            mask[line, : len(found)] = 1
            if types is not None and self.types is not None:
                types[line, : len(found)] = torch.tensor(self.types[row])
        return Batch(ids, mask, self.labels[rows], torch.tensor(rows), types)

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


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...], labels: list[int], max_length: int, task: Task, *, types: bool
) -> Encoded:
    """Tokenize a split once; longer texts are cut to `max_length` tokens. `types`: whether the model takes them."""
    found = tokenizer(
        list(texts), truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=types
    )
    return Encoded(
        found["input_ids"],
        torch.tensor(labels),
        int(tokenizer.pad_token_id),
        task,
        found["token_type_ids"] if types else None,
    )
