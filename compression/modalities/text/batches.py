"""Texts to padded tensors: tokenized once, rows of like length together, each batch padded to its longest row only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import TaskAdapter

POOL = 50
"""Batches whose rows are sorted by length together: enough to save most padding, few enough to keep batches random."""


@dataclass(frozen=True)
class Batch:
    """Rows side by side. ids, mask: (rows, tokens), mask 1 at real tokens; labels: as the task has them; rows: (rows,).

    types: (rows, tokens), which text of a pair a token belongs to; None for a model that is told no types. labelled: (rows,),
    whether a row's label is its own, or None where all are; of the others only a teacher may speak. counts: (rows,), of how
    many answers to a row the loss is a mean, or None where there is one to each.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    rows: Tensor
    types: Tensor | None = None
    labelled: Tensor | None = None
    counts: Tensor | None = None

    @property
    def weight(self) -> int:
        """Count the answers that a task's loss is a mean over."""
        return len(self.rows) if self.counts is None else int(self.counts.sum())

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`; `rows` and `counts` stay where the bookkeeping is."""
        types = None if self.types is None else self.types.to(device)
        labelled = None if self.labelled is None else self.labelled.to(device)
        return replace(
            self,
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            labels=self.labels.to(device),
            types=types,
            labelled=labelled,
        )

    def split(self, parts: int) -> "list[Batch]":
        """Cut into at most `parts` batches of about as many rows each, every one padded to its own longest row."""
        if parts == 1:
            return [self]
        size = -(-len(self.rows) // parts)
        return [self.at(slice(start, start + size)).trimmed() for start in range(0, len(self.rows), size)]

    def at(self, where: slice | Tensor) -> "Batch":
        """Return some of the rows: a slice of them, or those where a mask says so. where: (rows,) of truth values."""
        types = None if self.types is None else self.types[where]
        labelled = None if self.labelled is None else self.labelled[where]
        here = where.to(self.rows.device) if isinstance(where, Tensor) else where
        counts = None if self.counts is None else self.counts[here]
        return Batch(self.ids[where], self.mask[where], self.labels[where], self.rows[here], types, labelled, counts)

    def trimmed(self) -> "Batch":
        """Drop columns in which every row is padding."""
        longest = int(self.mask.sum(dim=1).max())
        types = None if self.types is None else self.types[:, :longest]
        return replace(self, ids=self.ids[:, :longest], mask=self.mask[:, :longest], types=types)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a stock encoder takes."""
        types = {} if self.types is None else {"token_type_ids": self.types}
        return {"input_ids": self.ids, "attention_mask": self.mask, **types}


@dataclass(frozen=True)
class TokenizedDataset:
    """A split tokenized for a task. `tokens` and `types` hold each row's ids, unpadded; `labels` are of the task's form.

    labelled: (rows,), as in a batch. references: what the task needs beside the labels to judge answers, `at` some rows; None
    where it needs nothing.
    """

    tokens: Sequence[Sequence[int]]
    labels: Tensor
    padding: int
    task: TaskAdapter
    types: list[list[int]] | None = None
    labelled: Tensor | None = None
    references: Any | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> list[int]:
        """Count the tokens of each row."""
        return list(map(len, self.tokens))

    def cut_like(self, other: "TokenizedDataset") -> bool:
        """Whether another model's rows are of the same tokens."""
        return self.tokens == other.tokens

    def at(self, rows: list[int]) -> "TokenizedDataset":
        """Return the rows named, in that order."""
        types = None if self.types is None else [self.types[row] for row in rows]
        labelled = None if self.labelled is None else self.labelled[rows]
        references = None if self.references is None else self.references.at(rows)
        tokens = [self.tokens[row] for row in rows]
        return TokenizedDataset(tokens, self.labels[rows], self.padding, self.task, types, labelled, references)

    def with_unlabelled(self, more: "TokenizedDataset") -> "TokenizedDataset":
        """Put rows behind these whose labels nobody may learn from."""
        types = None if self.types is None or more.types is None else self.types + more.types
        own = torch.ones(len(self), dtype=torch.bool) if self.labelled is None else self.labelled
        labelled = torch.cat([own, torch.zeros(len(more), dtype=torch.bool)])
        labels = torch.cat([self.labels, more.labels])
        return TokenizedDataset([*self.tokens, *more.tokens], labels, self.padding, self.task, types, labelled)

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
        labelled = None if self.labelled is None else self.labelled[rows]
        labels = self.labels[rows]
        return Batch(ids, mask, labels, torch.tensor(rows), types, labelled, self.task.counts(labels))

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


def tokenize(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    labels: list[int] | list[float],
    max_length: int,
    task: TaskAdapter,
    *,
    types: bool,
) -> TokenizedDataset:
    """Tokenize a split once; longer texts are cut to `max_length` tokens, of a pair the longer one first.

    types: whether the model takes them; pairs: the second text of each row.
    """
    found = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=types,
    )
    return TokenizedDataset(
        found["input_ids"],
        torch.tensor(labels),
        int(tokenizer.pad_token_id),
        task,
        found["token_type_ids"] if types else None,
    )
