"""A split's rows as a model takes them, task by task."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from compression.batches import Encoded, encode
from compression.data import Dataset
from compression.recipe import Split
from compression.scoring.questions import Window, windows_of
from compression.scoring.tags import first_tokens
from compression.tasks.base import Task
from compression.tasks.questions import References
from compression.tasks.tagging import IGNORED


def encoded(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: Task, *, types: bool
) -> Encoded:
    """Tokenize a split; longer texts are cut to `length` tokens, longer contexts to windows of as many.

    types: whether the model takes them.
    """
    if dataset.task == "token-classification":
        return _tagged(dataset, split, tokenizer, length, task, types=types)
    if dataset.task == "question-answering":
        return _asked(dataset, split, tokenizer, length, task, types=types)
    rows = dataset.splits[split]
    return encode(tokenizer, rows.texts, rows.pairs, dataset.ids(split), length, task, types=types)


def side_by_side(rows: Sequence[tuple[str, ...]]) -> tuple[list[str], list[str] | None]:
    """Turn rows of one or two texts to a column of first texts and one of second texts, if there are any."""
    return [row[0] for row in rows], [row[1] for row in rows] if rows and len(rows[0]) > 1 else None


def _tagged(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: Task, *, types: bool
) -> Encoded:
    rows = dataset.splits[split]
    found = tokenizer(list(rows.texts), truncation=True, max_length=length).encodings
    labels = torch.full((len(rows), max(len(one.ids) for one in found)), IGNORED)
    for line, (one, words, tags) in enumerate(zip(found, rows.words or (), dataset.ids(split), strict=True)):
        for tag, at in zip(tags, first_tokens(one.offsets, words), strict=True):
            if at is not None:
                labels[line, at] = tag
    return Encoded(
        [one.ids for one in found],
        labels,
        int(tokenizer.pad_token_id),
        task,
        [one.type_ids for one in found] if types else None,
    )


def _asked(
    dataset: Dataset, split: Split, tokenizer: PreTrainedTokenizerFast, length: int, task: Task, *, types: bool
) -> Encoded:
    rows = dataset.splits[split]
    contexts = rows.pairs or ()
    asked = windows_of(tokenizer.backend_tokenizer, rows.texts, contexts, length)
    windows = [Window.of(one) for one in asked.windows]
    labels = torch.zeros((len(windows), 2), dtype=torch.long)
    for line, (window, row) in enumerate(zip(windows, asked.owners, strict=True)):
        if rows.labels[row]:
            first = rows.labels[row][0]
            labels[line] = torch.tensor(window.place(first.start, first.start + len(first.text)))
    answers = tuple(tuple(each.text for each in one) for one in rows.labels)
    # Nobody judges answers to train, and its windows' offsets would take as much memory as its tokens.
    known = None if split == "train" else References(tuple(windows), tuple(asked.owners), contexts, answers)
    return Encoded(
        [one.ids for one in asked.windows],
        labels,
        int(tokenizer.pad_token_id),
        task,
        [one.type_ids for one in asked.windows] if types else None,
        references=known,
    )
