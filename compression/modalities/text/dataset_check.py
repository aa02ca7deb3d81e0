"""Checks that a dataset's files can be read and trained on, with one row in memory at a time."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from compression.modalities.text.dataset import (
    SPLITS,
    UNNAMED,
    TextSplit,
    carve,
    check_rows,
    each_row,
    each_text,
    label_names,
    learnable,
)
from compression.schema.errors import CompressionError, EmptySplit, SingleLabel, UnreadableData, UnseenLabel
from compression.schema.job_spec import Data, check_data
from compression.schema.recipe.base import DataSplit, Split, Task
from compression.schema.report.report import Values
from compression.schema.validation import DataFacts

MOST_LABELS = 1000
MOST_ROWS, MOST_CHARACTERS = 10_000_000, 2**31
"""Limits of a split: the engine holds its rows in memory, and a few kilobytes of Parquet can stand for any number of rows."""
ENOUGH_TO_CARVE = 20
"""Rows of a label; more do not change whether splits can be carved from train."""


@dataclass
class _Tally:
    """Counts of a split.

    `labels` counts the names of `dataset.label_names`; `numbers` holds at most two different values, to detect a second one.
    """

    labels: Counter[str] = field(default_factory=Counter)
    numbers: set[float] = field(default_factory=set)
    least: float = math.inf
    most: float = -math.inf
    sum: float = 0.0
    rows: int = 0
    characters: int = 0
    words: int = 0
    longest: int = 0

    def number(self, value: float) -> None:
        """Add a regression's label."""
        if len(self.numbers) < 2:
            self.numbers.add(value)
        self.least, self.most, self.sum = min(self.least, value), max(self.most, value), self.sum + value

    @property
    def values(self) -> Values:
        """Return the minimum, maximum and mean of the numbers."""
        return Values(least=self.least, most=self.most, mean=self.sum / self.rows)


def check(data: Data, base: Path, task: Task = "text-classification") -> DataFacts | list[CompressionError]:
    """Return the facts about a dataset, or every reason to reject it. Relative paths start at `base`."""
    tallies: dict[Split, _Tally] = {}
    try:
        check_data(task, data)
    except CompressionError as problem:
        return [problem]
    problems: list[CompressionError] = []
    for name in SPLITS:
        if name in data.splits:
            try:
                tallies[name] = _count(data, name, base, task)
            except CompressionError as problem:
                problems.append(problem)
    for name, loss_meter in tallies.items():
        try:
            check_rows(task, name, loss_meter.rows)
        except EmptySplit as problem:
            problems.append(problem)
    plain = _Tally()
    if "unlabelled" in data.splits:
        try:
            plain = _count_texts(data, base)
        except CompressionError as problem:
            problems.append(problem)
        else:
            if not plain.rows:
                problems.append(EmptySplit("unlabelled has no rows", param="data.splits.unlabelled"))
    if "train" in tallies and tallies["train"].rows:
        problems += _learnable(tallies, task)
    if problems:
        return problems
    train = tallies["train"]
    numbers = task == "text-regression"
    return DataFacts(
        task=task,
        labels=() if task in UNNAMED else tuple(sorted(train.labels)),
        rows={name: loss_meter.rows for name, loss_meter in tallies.items()}
        | ({"unlabelled": plain.rows} if plain.rows else {}),
        label_counts={name: dict(sorted(loss_meter.labels.items())) for name, loss_meter in tallies.items()},
        values={str(name): loss_meter.values for name, loss_meter in tallies.items()} if numbers else {},
        mean_words=train.words / train.rows,
        characters={str(name): loss_meter.characters for name, loss_meter in tallies.items()} if task == "causal-lm" else {},
        longest_words=train.longest,
        unlabelled_words=plain.words / max(plain.rows, 1),
    )


def _count(data: Data, name: Split, base: Path, task: Task) -> _Tally:
    loss_meter, characters = _Tally(), 0
    for row in each_row(data, name, base, task):
        loss_meter.rows += 1
        loss_meter.labels.update(label_names(task, row.label))
        if task == "text-regression":
            loss_meter.number(row.label)
        if len(loss_meter.labels) > MOST_LABELS:
            raise UnreadableData(
                f"{name} has more than {MOST_LABELS} different labels",
                param="data.columns.tags" if task == "token-classification" else "data.columns.label",
                remedy="Name the column that holds the class of each row.",
            )
        characters += len(row.text) + len(row.pair or "")
        loss_meter.characters = characters
        _bounded(name, loss_meter, characters)
        words = len(row.text.split()) + len((row.pair or "").split())
        loss_meter.words += words
        loss_meter.longest = max(loss_meter.longest, words)
    return loss_meter


def _count_texts(data: Data, base: Path) -> _Tally:
    loss_meter, characters = _Tally(), 0
    for text in each_text(data, base):
        loss_meter.rows += 1
        characters += len(text)
        _bounded("unlabelled", loss_meter, characters)
        loss_meter.words += len(text.split())
    return loss_meter


def _bounded(name: DataSplit, loss_meter: _Tally, characters: int) -> None:
    if loss_meter.rows > MOST_ROWS or characters > MOST_CHARACTERS:
        raise UnreadableData(
            f"{name} has more than {MOST_ROWS:,} rows or {MOST_CHARACTERS:,} characters",
            param=f"data.splits.{name}",
            remedy="Send a sample of the rows.",
        )


def _learnable(tallies: dict[Split, _Tally], task: Task) -> list[CompressionError]:
    train = tallies["train"].labels
    problems: list[CompressionError] = []
    try:
        learnable(task, train, tallies["train"].rows, tallies["train"].numbers)
    except SingleLabel as problem:
        problems.append(problem)
    for name, loss_meter in tallies.items() if task != "question-answering" else ():
        unseen = {label: count for label, count in loss_meter.labels.items() if label not in train}
        if unseen:
            label, count = next(iter(unseen.items()))
            others = f", and {len(unseen) - 1} more labels" if len(unseen) > 1 else ""
            cause = f"{count} rows of {name} have the label {label!r:.100}, which train lacks{others}"
            problems.append(UnseenLabel(cause, param=f"data.splits.{name}"))
    if not problems:
        labels = tuple(label for label, count in train.items() for _ in range(min(count, ENOUGH_TO_CARVE)))
        if "classification" not in task or task == "token-classification":
            labels = ("",) * min(tallies["train"].rows, ENOUGH_TO_CARVE)
        standing = TextSplit(texts=("",) * len(labels), labels=labels)
        try:
            carve(dict.fromkeys(tallies, standing), seed=0, task=task)
        except CompressionError as problem:
            problems.append(problem)
    return problems
