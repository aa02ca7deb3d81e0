"""A split of texts as the stages take rows: packed, judged by their own loss, and counted in tokens."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.causal_lm.packing import Packed

TOGETHER = 8192
"""Tokens that go through a model side by side where nothing is trained: more brings no speed and costs memory."""
JUDGED = 65_536
"""Tokens of validation that epochs are chosen by. Losses of two models on the same tokens differ by far less than either's own
error, so these tell them apart; all of a large split would cost more time than training."""


@dataclass(frozen=True, kw_only=True)
class PackedDataset(TokenizedDataset):
    """Texts of a split in packed rows. A row's `labels` are its own next tokens; those of `Encoded` say nothing here.

    length: the most tokens of a row. Of the whole split, also where these are some of its rows: whole, tokens that are asked
    for; texts: how many have such a token; left_out: those without one; bytes: of UTF-8 that the tokens stand for.
    """

    packed: Packed
    length: int
    whole: int
    texts: int
    left_out: int
    bytes: int

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int, task: TaskAdapter) -> "PackedDataset":
        """Tokenize texts and pack them in rows of at most `length` tokens. Raises ConfigMismatch as `documents.read` does."""
        found = read(texts, tokenizer)
        packed = Packed(found, length)
        return cls(
            _ids(packed),
            torch.zeros(len(packed)),
            0,
            task,
            packed=packed,
            length=length,
            whole=sum(packed.asked),
            texts=len(found),
            left_out=found.left_out,
            bytes=int(found.bytes.sum()),
        )

    @property
    def asked(self) -> int:
        """Count the tokens that are asked for."""
        return sum(self.packed.asked)

    def at(self, rows: list[int]) -> "PackedDataset":
        """Return the rows named, in that order."""
        packed = self.packed.at(rows)
        return replace(self, tokens=_ids(packed), labels=self.labels[rows], packed=packed)

    def judged(self, seed: int) -> "PackedDataset":
        """Return rows of about JUDGED tokens, drawn with `seed`; all where there are no more."""
        counts, taken, rows = self.packed.asked, 0, list[int]()
        for row in torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist():
            if taken >= JUDGED:
                break
            rows.append(row)
            taken += counts[row]
        return self if len(rows) == len(self) else self.at(sorted(rows))

    def with_unlabelled(self, more: TokenizedDataset) -> TokenizedDataset:  # noqa: ARG002
        """Language models learn from all texts alike."""
        raise ValueError("texts of a language model have no labels that others could lack")

    def batch(self, rows: list[int]) -> PackedBatch:
        """Lay the rows named side by side."""
        return self.packed.batch(rows)

    def by_length(self, size: int) -> Iterator[PackedBatch]:
        """Go through all rows once, those of like length together, at most `size` of them and about TOGETHER tokens."""
        yield from self.packed.in_order(max(min(size, TOGETHER // self.length), 1))

    def shuffled(self, size: int, seed: int) -> Iterator[PackedBatch]:
        """Go through all rows once in an order given by `seed`."""
        yield from self.packed.shuffled(size, seed)


def _ids(packed: Packed) -> list["array[int]"]:
    return [array("i", packed.ids_of(row).tolist()) for row in range(len(packed))]


def packed_split(rows: Examples) -> PackedDataset:
    """Say that rows are a language model's. Raises TypeError where they are not."""
    if not isinstance(rows, PackedDataset):
        raise TypeError("these rows are not texts of a language model")
    return rows
