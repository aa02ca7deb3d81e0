"""Tokenizes a split's rows for a model, task by task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import TaskAdapter
from compression.modalities.text.batches import TokenizedDataset, tokenize
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.dataset import Dataset
from compression.modalities.text.scoring.question_answering import Reader, Window
from compression.modalities.text.scoring.token_classification import first_tokens
from compression.modalities.text.tasks.question_answering import References
from compression.modalities.text.tasks.token_classification import IGNORED
from compression.schema.recipe.base import Split

AT_ONCE = 512
"""Rows to tokenize at once: the tokenizer's own objects take a hundred times the memory of the numbers in them."""


@dataclass(frozen=True)
class TextPreprocessor:
    """Tokenizes texts for a model.

    length: the maximum number of tokens of a row; types: whether the model takes token types, which tell two texts apart.
    """

    tokenizer: PreTrainedTokenizerFast
    length: int
    types: bool

    @property
    def padding(self) -> int:
        """Return the id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, dataset: Dataset, split: Split, task: TaskAdapter) -> TokenizedDataset:
        """Tokenize a split. A language model's validation is limited to the rows that choose the epoch."""
        if task.packed is not None:
            rows = PackedDataset.of(dataset.splits[split].texts, self.tokenizer, self.length, task)
            return rows.judged(0) if split == "validation" else rows
        return encoded(dataset, split, self.tokenizer, self.length, task, types=self.types)

    def rows(self, texts: Sequence[tuple[str, ...]], labels: list[int], task: TaskAdapter) -> TokenizedDataset:
        """Tokenize rows of one or two texts."""
        return tokenize(self.tokenizer, *side_by_side(texts), labels, self.length, task, types=self.types)

    def encoder(self, task: TaskAdapter) -> Callable[[Sequence[tuple[str, ...]], list[int]], TokenizedDataset]:
        """Return the function that tokenizes rows for a task."""
        return lambda texts, labels: self.rows(texts, labels, task)

    def with_made(self, rows: TokenizedDataset, made: Sequence[tuple[str, ...]], task: TaskAdapter) -> TokenizedDataset:
        """Append the texts that augmentation made to the rows of train, without labels."""
        return rows.with_unlabelled(self.rows(made, rows.labels[[0] * len(made)].tolist(), task))

    def reads_like(self, other: "TextPreprocessor") -> bool:
        """Return whether both models take token types or neither does."""
        return self.types == other.types

    def write(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def unlabelled(self, texts: Sequence[str], task: TaskAdapter) -> TokenizedDataset:
        """Tokenize texts without labels."""
        found = self.rows([(text,) for text in texts], [0] * len(texts), task)
        # Labels of token classification are a row of ids each: a single IGNORED stands for all.
        labels = torch.full((len(texts), 1), IGNORED) if task.name == "token-classification" else found.labels
        return replace(found, labels=labels, labelled=torch.zeros(len(texts), dtype=torch.bool))


def encoded(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: TaskAdapter, *, types: bool
) -> TokenizedDataset:
    """Tokenize a split; longer texts are truncated to `length` tokens, longer contexts become windows.

    A window has `length` tokens too. types: whether the model takes token types.
    """
    if dataset.task == "token-classification":
        return _tagged(dataset, split, tokenizer, length, task, types=types)
    if dataset.task == "question-answering":
        return _asked(dataset, split, tokenizer, length, task, types=types)
    rows = dataset.splits[split]
    return tokenize(tokenizer, rows.texts, rows.pairs, dataset.ids(split), length, task, types=types)


def side_by_side(rows: Sequence[tuple[str, ...]]) -> tuple[list[str], list[str] | None]:
    """Return a column of first texts, and one of second texts, if rows have two."""
    return [row[0] for row in rows], [row[1] for row in rows] if rows and len(rows[0]) > 1 else None


def _tagged(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: TaskAdapter, *, types: bool
) -> TokenizedDataset:
    rows = dataset.splits[split]
    tokens, kinds, places = [], [], []
    for start in range(0, len(rows), AT_ONCE):
        found = tokenizer(list(rows.texts[start : start + AT_ONCE]), truncation=True, max_length=length).encodings
        for one, words in zip(found, (rows.words or ())[start : start + AT_ONCE], strict=True):
            tokens.append(one.ids)
            kinds.append(one.type_ids)
            places.append(first_tokens(one.offsets, words))
    labels = torch.full((len(rows), max(map(len, tokens))), IGNORED)
    for line, (firsts, tags) in enumerate(zip(places, dataset.ids(split), strict=True)):
        for at, tag in zip(firsts, tags, strict=True):
            if at is not None:
                labels[line, at] = tag
    return TokenizedDataset(tokens, labels, int(tokenizer.pad_token_id), task, kinds if types else None)


def _asked(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: TaskAdapter, *, types: bool
) -> TokenizedDataset:
    rows, reader = dataset.splits[split], Reader(tokenizer.backend_tokenizer, length)
    contexts = rows.pairs or ()
    tokens, kinds, labels = [], [], []
    windows: list[Window] = []
    owners: list[int] = []
    for start in range(0, len(rows), AT_ONCE):
        asked = reader.read(rows.texts[start : start + AT_ONCE], contexts[start : start + AT_ONCE])
        for one, row in zip(asked.windows, asked.owners, strict=True):
            window, answers = Window.of(one), rows.labels[start + row]
            place = window.place(answers[0].start, answers[0].start + len(answers[0].text)) if answers else (0, 0)
            tokens.append(one.ids)
            kinds.append(one.type_ids)
            labels.append(place)
            if split != "train":
                windows.append(window)
                owners.append(start + row)
    answers = tuple(tuple(each.text for each in one) for one in rows.labels)
    # Predictions on train are not scored, and its windows' offsets would take as much memory as its tokens.
    known = None if split == "train" else References(tuple(windows), tuple(owners), contexts, answers)
    padding = int(tokenizer.pad_token_id)
    return TokenizedDataset(tokens, torch.tensor(labels), padding, task, kinds if types else None, references=known)
