"""A split of texts in packed rows, and the sample of texts that scores a language model."""

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.carving import FILL_TRAIN
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.causal_lm.packing import Packed
from compression.modalities.text.dataset import FEWEST_TEXTS, Dataset
from compression.schema.errors import EmptySplit
from compression.schema.recipe.base import Split
from compression.schema.tasks import JUDGED

TOGETHER = 8192  #: tokens in a batch without training: more brings no speed and costs memory


@dataclass(frozen=True, kw_only=True)
class PackedDataset(TokenizedDataset):
    """Texts of a split in packed rows; a row's labels are its next tokens, not `labels`."""

    packed: Packed
    length: int  #: maximum number of tokens of a row
    whole: int  #: scored tokens of the whole split, even if this is a part of its rows
    left_out: int  #: texts of the whole split without a scored token
    bytes: int  #: of UTF-8 that the whole split's tokens stand for

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int, task: TaskAdapter) -> "PackedDataset":
        """Tokenize texts and pack them into rows of at most `length` tokens. Raises ConfigMismatch as `documents.read` does."""
        documents = read(texts, tokenizer)
        packed = Packed(documents, length)
        whole, size = sum(packed.asked), int(documents.bytes.sum())
        rows, labels, left_out = _ids(packed), torch.zeros(len(packed)), documents.left_out
        return cls(rows, labels, 0, task, packed=packed, length=length, whole=whole, left_out=left_out, bytes=size)

    @property
    def asked(self) -> int:
        """Return the number of scored tokens."""
        return sum(self.packed.asked)

    def at(self, rows: list[int]) -> "PackedDataset":
        """Return the rows with these indices, in this order."""
        packed = self.packed.at(rows)
        return replace(self, tokens=_ids(packed), labels=self.labels[rows], packed=packed)

    def judged(self, seed: int) -> "PackedDataset":
        """Return random rows of about JUDGED tokens, drawn with `seed`; all rows if there are no more."""
        counts, taken, rows = self.packed.asked, 0, list[int]()
        for row in torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist():
            if taken >= JUDGED:
                break
            rows.append(row)
            taken += counts[row]
        return self if len(rows) == len(self) else self.at(sorted(rows))

    def with_unlabelled(self, more: TokenizedDataset) -> TokenizedDataset:  # noqa: ARG002
        """Raise ValueError: language models learn from all texts alike."""
        raise ValueError("a language model learns from all texts alike: none lacks a label")

    def batch(self, rows: list[int]) -> PackedBatch:
        """Return a batch of the rows with these indices."""
        return self.packed.batch(rows)

    def by_length(self, size: int) -> Iterator[PackedBatch]:
        """Yield every row once, in batches of similar length, at most `size` rows and about TOGETHER tokens."""
        yield from self.packed.in_order(max(min(size, TOGETHER // self.length), 1))

    def shuffled(self, size: int, seed: int) -> Iterator[PackedBatch]:
        """Yield every row once, in batches, in an order that `seed` determines."""
        yield from self.packed.shuffled(size, seed)


def _ids(packed: Packed) -> list["array[int]"]:
    return [array("i", packed.ids_of(row).tolist()) for row in range(len(packed))]


def packed_split(rows: Examples) -> PackedDataset:
    """Return `rows` as a language model's. Raises TypeError if they are not."""
    if not isinstance(rows, PackedDataset):
        raise TypeError("these rows are not texts of a language model")
    return rows


def sampled(dataset: Dataset, tokenizer: PreTrainedTokenizerFast, most: int, seed: int) -> dict[Split, list[int]]:
    """Sample whole texts of validation and test to score. Raises EmptySplit if test has fewer than two with a scored token."""
    # One of validation suffices: its perplexity is compared with others on the same text.
    fewest: dict[Split, int] = {"validation": 1, "test": FEWEST_TEXTS}
    return {split: _sample(dataset.splits[split].texts, tokenizer, most, seed, split, few) for split, few in fewest.items()}


def _sample(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, most: int, seed: int, split: Split, fewest: int
) -> list[int]:
    """Return the indices of random texts with `most` scored tokens or more, ascending; at least `fewest` can be scored."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    taken, tokens, usable = list[int](), 0, 0
    for number in order:
        documents = read([texts[number]], tokenizer)
        taken.append(number)
        tokens += int(documents.scored.sum())
        usable += len(documents)
        if tokens >= most and usable >= FEWEST_TEXTS:
            return sorted(taken)
    if usable < fewest:
        raise EmptySplit(f"{split} has {usable} texts with a token to predict", param=f"data.splits.{split}")
    return sorted(taken)


def check_texts(rows: Iterable[tuple[str, TokenizedDataset]]) -> None:
    """Reject splits of texts without a scored token. rows: of each split, by its name. Raises EmptySplit."""
    for name, split in rows:
        if isinstance(split, PackedDataset) and not len(split):
            remedy = FILL_TRAIN if name == "train" else None
            raise EmptySplit(f"{name} has no text with a token to predict", param=f"data.splits.{name}", remedy=remedy)
