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
from compression.schema.errors import UnreadableData
from compression.schema.recipe.base import DataSplit, Split

AT_ONCE = 512  #: rows to tokenize at once: the tokenizer's own objects take a hundred times the memory of the numbers in them


def with_tokens(rows: TokenizedDataset, split: DataSplit) -> TokenizedDataset:
    """Return the rows, each of which has a token. Raises UnreadableData: some tokenizers add none to an empty text."""
    if empty := [number for number, length in enumerate(rows.lengths, 1) if not length]:
        cause = f"{len(empty)} texts of {split} have no tokens, the first of them row {empty[0]}"
        raise UnreadableData(cause, param=f"data.splits.{split}", remedy="Leave out rows whose text is empty.")
    return rows


@dataclass(frozen=True)
class TextPreprocessor:
    """Tokenizes texts for a model into rows of at most `length` tokens; `types`: whether the model takes token types."""

    tokenizer: PreTrainedTokenizerFast
    length: int
    types: bool

    @property
    def padding(self) -> int:
        """Return the id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, dataset: Dataset, split: Split, task: TaskAdapter) -> TokenizedDataset:
        """Tokenize a split. A language model's validation is limited to the rows that choose the epoch.

        Raises UnreadableData for a text without tokens, unless texts are packed.
        """
        if task.packed is not None:
            packed = PackedDataset.of(dataset.splits[split].texts, self.tokenizer, self.length, task)
            return packed.judged(0) if split == "validation" else packed
        return with_tokens(self._encoded(dataset, split, task), split)

    def _encoded(self, dataset: Dataset, split: Split, task: TaskAdapter) -> TokenizedDataset:
        if dataset.task == "token-classification":
            return self._tagged(dataset, split, task)
        if dataset.task == "question-answering":
            return self._questions(dataset, split, task)
        rows = dataset.splits[split]
        return tokenize(self.tokenizer, rows.texts, rows.pairs, dataset.ids(split), self.length, task, types=self.types)

    def rows(self, texts: Sequence[tuple[str, ...]], labels: list[int], task: TaskAdapter) -> TokenizedDataset:
        """Tokenize rows of one or two texts."""
        first, second = [row[0] for row in texts], [row[1] for row in texts] if texts and len(texts[0]) > 1 else None
        return tokenize(self.tokenizer, first, second, labels, self.length, task, types=self.types)

    def encoder(self, task: TaskAdapter) -> Callable[[Sequence[tuple[str, ...]], list[int]], TokenizedDataset]:
        """Return the function that tokenizes rows for a task."""
        return lambda texts, labels: self.rows(texts, labels, task)

    def with_made(self, rows: TokenizedDataset, made: Sequence[tuple[str, ...]], task: TaskAdapter) -> TokenizedDataset:
        """Append the texts that augmentation made to the rows of train, without labels."""
        return rows.with_unlabelled(self.rows(made, rows.labels[[0] * len(made)].tolist(), task))

    def reads_like(self, other: "TextPreprocessor") -> bool:
        """Return whether rows of the same tokens are the same inputs: both models take token types or neither does, and both
        pad alike. A stock decoder that classifies looks for the last token that is not its own padding.
        """
        return (self.types, self.padding) == (other.types, other.padding)

    def write(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def unlabelled(self, texts: Sequence[str], task: TaskAdapter) -> TokenizedDataset:
        """Tokenize texts without labels. Raises UnreadableData for one without tokens."""
        rows = with_tokens(self.rows([(text,) for text in texts], [0] * len(texts), task), "unlabelled")
        # Labels of token classification are a row of ids each: a single IGNORED stands for all.
        labels = torch.full((len(texts), 1), IGNORED) if task.name == "token-classification" else rows.labels
        return replace(rows, labels=labels, labelled=torch.zeros(len(texts), dtype=torch.bool))

    def _tagged(self, dataset: Dataset, split: Split, task: TaskAdapter) -> TokenizedDataset:
        rows = dataset.splits[split]
        tokens, types, places = [], [], []
        for start in range(0, len(rows), AT_ONCE):
            texts, words = rows.texts[start : start + AT_ONCE], (rows.words or ())[start : start + AT_ONCE]
            encodings = self.tokenizer(list(texts), truncation=True, max_length=self.length).encodings
            for encoding, own in zip(encodings, words, strict=True):
                tokens.append(encoding.ids)
                types.append(encoding.type_ids)
                places.append(first_tokens(encoding.offsets, own))
        labels = torch.full((len(rows), max(map(len, tokens))), IGNORED)
        for line, (firsts, tags) in enumerate(zip(places, dataset.ids(split), strict=True)):
            for place, tag in zip(firsts, tags, strict=True):
                if place is not None:
                    labels[line, place] = tag
        return TokenizedDataset(tokens, labels, self.padding, task, types if self.types else None)

    def _questions(self, dataset: Dataset, split: Split, task: TaskAdapter) -> TokenizedDataset:
        rows, reader = dataset.splits[split], Reader(self.tokenizer.backend_tokenizer, self.length)
        contexts = rows.pairs or ()
        tokens, types, labels = [], [], []
        windows: list[Window] = []
        owners: list[int] = []
        for start in range(0, len(rows), AT_ONCE):
            some = reader.read(rows.texts[start : start + AT_ONCE], contexts[start : start + AT_ONCE])
            for encoding, row in zip(some.windows, some.owners, strict=True):
                window, answers = Window.of(encoding), rows.labels[start + row]
                tokens.append(encoding.ids)
                types.append(encoding.type_ids)
                places = (window.place(answer.start, answer.start + len(answer.text)) for answer in answers)
                labels.append(next((place for place in places if place != (0, 0)), (0, 0)))
                if split != "train":
                    windows.append(window)
                    owners.append(start + row)
        true = tuple(tuple(answer.text for answer in answers) for answers in rows.labels)
        # Predictions on train are not scored, and its windows' offsets would take as much memory as its tokens.
        known = None if split == "train" else References(tuple(windows), tuple(owners), contexts, true)
        kinds = types if self.types else None
        return TokenizedDataset(tokens, torch.tensor(labels), self.padding, task, kinds, references=known)
