"""Turns texts into padded tensors: tokenized once, rows of similar length together, padded to a batch's longest row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import FixedRows, TaskAdapter

POOL = 50  #: batches whose rows are sorted by length together: enough to avoid most padding, few enough to keep batches random
TOKENIZED_AT_ONCE = 512  #: rows: what a tokenizer tells of a row takes a hundred times the memory of its numbers


@dataclass(frozen=True)
class Batch:
    """A batch of tokenized rows."""

    INPUTS: ClassVar[tuple[str, ...]] = ("ids", "mask", "labels", "types", "labelled")
    """The fields that a model and its loss read."""

    ids: Tensor  #: (rows, tokens)
    mask: Tensor  #: (rows, tokens), 1 at real tokens
    labels: Tensor  #: in the task's format
    rows: Tensor  #: (rows,), indices in the split
    types: Tensor | None = None  #: (rows, tokens), which text of a pair a token belongs to, if the model takes it
    labelled: Tensor | None = None  #: (rows,), whether a row has a label, or None if all have; others learn from a teacher
    counts: Tensor | None = None  #: (rows,), predictions of each row that the loss averages; None: one each

    @property
    def weight(self) -> int:
        """Return the number of predictions that the task's loss is a mean over."""
        return len(self.rows) if self.counts is None else int(self.counts.sum())

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on `device`; `rows` and `counts` stay on the CPU."""
        return self._each(self.INPUTS, lambda column: column.to(device))

    def split(self, parts: int) -> list[Self]:
        """Split into at most `parts` batches with about as many rows each, each padded to its longest row."""
        if parts == 1:
            return [self]
        size = -(-len(self.rows) // parts)
        return [self.at(slice(start, start + size)).trimmed() for start in range(0, len(self.rows), size)]

    def at(self, where: slice | Tensor) -> Self:
        """Return some of the rows. where: a slice, or a boolean mask (rows,)."""
        here = where.to(self.rows.device) if isinstance(where, Tensor) else where
        return self._each(self.INPUTS, lambda column: column[where])._each(("rows", "counts"), lambda column: column[here])

    def trimmed(self) -> Self:
        """Drop columns in which every row is padding."""
        longest = int(self.mask.sum(dim=1).max())
        return self._each(("ids", "mask", "types"), lambda column: column[:, :longest])

    def _each(self, names: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Self:
        columns = {name: getattr(self, name) for name in names}
        return replace(self, **{name: change(column) for name, column in columns.items() if column is not None})

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Return the keyword arguments of a stock encoder's forward."""
        types = {} if self.types is None else {"token_type_ids": self.types}
        return {"input_ids": self.ids, "attention_mask": self.mask, **types}


@dataclass(frozen=True)
class TokenizedDataset(FixedRows):
    """A split, tokenized for a task."""

    tokens: Sequence[Sequence[int]]  #: each row's ids, unpadded
    labels: Tensor  #: in the task's format
    padding: int
    task: TaskAdapter
    types: list[list[int]] | None = None  #: like `tokens`
    labelled: Tensor | None = None  #: (rows,), as in a batch
    references: Any | None = None  #: data to score predictions by besides the labels, with a method `at` for some rows

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each row."""
        return list(map(len, self.tokens))

    def cut_like(self, other: "TokenizedDataset") -> bool:
        """Return whether another model's rows have the same tokens."""
        return self.tokens == other.tokens

    def at(self, rows: list[int]) -> "TokenizedDataset":
        """Return the rows with these indices, in this order."""
        types = None if self.types is None else [self.types[row] for row in rows]
        labelled = None if self.labelled is None else self.labelled[rows]
        references = None if self.references is None else self.references.at(rows)
        tokens, labels = [self.tokens[row] for row in rows], self.labels[rows]
        return replace(self, tokens=tokens, labels=labels, types=types, labelled=labelled, references=references)

    def with_unlabelled(self, more: "TokenizedDataset") -> "TokenizedDataset":
        """Append rows whose labels are not used in training."""
        types = None if self.types is None or more.types is None else self.types + more.types
        own = torch.ones(len(self), dtype=torch.bool) if self.labelled is None else self.labelled
        labelled = torch.cat([own, torch.zeros(len(more), dtype=torch.bool)])
        labels = torch.cat([self.labels, more.labels])
        return TokenizedDataset([*self.tokens, *more.tokens], labels, self.padding, self.task, types, labelled)

    def batch(self, rows: list[int]) -> Batch:
        """Return a batch of the rows with these indices, padded to the longest of them."""

        def padded(column: Sequence[Sequence[int]], fill: int) -> Tensor:
            tensors = [torch.tensor(column[row], dtype=torch.long) for row in rows]
            return pad_sequence(tensors, batch_first=True, padding_value=fill)

        ids, lengths = padded(self.tokens, self.padding), torch.tensor([len(self.tokens[row]) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        types = None if self.types is None else padded(self.types, 0)
        labels, labelled = self.labels[rows], None if self.labelled is None else self.labelled[rows]
        return Batch(ids, mask, labels, torch.tensor(rows), types, labelled, self.task.counts(labels))

    def by_length(self, size: int) -> Iterator[Batch]:
        """Yield every row once, in batches, shortest first. For evaluation, where the order does not matter."""
        order = sorted(range(len(self)), key=lambda row: len(self.tokens[row]))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield every row once, in batches of similar length, in an order that `seed` determines."""
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
    """Tokenize a split; truncate longer texts to `max_length` tokens, in a pair the longer text first."""
    options = {"truncation": True, "max_length": max_length, "return_attention_mask": False, "return_token_type_ids": types}
    ids, kinds = list[Any](), list[Any]()
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        some = slice(start, start + TOKENIZED_AT_ONCE)
        found = tokenizer(list(texts[some]), None if pairs is None else list(pairs[some]), **options)
        ids += found["input_ids"]
        kinds += found["token_type_ids"] if types else []
    return TokenizedDataset(ids, torch.tensor(labels), int(tokenizer.pad_token_id), task, kinds if types else None)
