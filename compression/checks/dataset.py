"""Check a dataset's files: can they be read, and can anything be learned from them? One row in memory at a time."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from compression import data as rows
from compression.errors import CompressionError, EmptySplit, SingleLabel, UnreadableData, UnseenLabel
from compression.recipe import Data, Split
from compression.report import DataFacts

MOST_LABELS = 1000
MOST_ROWS, MOST_CHARACTERS = 10_000_000, 2**31
"""Of a split: the engine holds its rows in memory, and a few kilobytes of Parquet can stand for any number of them."""
ENOUGH_TO_CARVE = 20
"""More rows of a label than this change nothing about whether splits can be carved from train."""


@dataclass
class _Tally:
    labels: Counter[str] = field(default_factory=Counter)
    words: int = 0
    longest: int = 0


def check(data: Data, base: Path) -> DataFacts | list[CompressionError]:
    """Return what is known of the dataset, or every reason why it cannot be taken. Relative paths are taken from `base`."""
    tallies: dict[Split, _Tally] = {}
    problems: list[CompressionError] = []
    for name in rows.SPLITS:
        if name in data.splits:
            try:
                tallies[name] = _count(data, name, base)
            except CompressionError as problem:
                problems.append(problem)
    for name, tally in tallies.items():
        if not tally.labels:
            problems.append(EmptySplit(f"{name} has no rows", param=f"data.splits.{name}"))
    if "train" in tallies and tallies["train"].labels:
        problems += _learnable(tallies)
    if problems:
        return problems
    train = tallies["train"]
    return DataFacts(
        labels=tuple(sorted(train.labels)),
        rows={name: tally.labels.total() for name, tally in tallies.items()},
        label_counts={name: dict(sorted(tally.labels.items())) for name, tally in tallies.items()},
        mean_words=train.words / train.labels.total(),
        longest_words=train.longest,
    )


def _count(data: Data, name: Split, base: Path) -> _Tally:
    tally, characters = _Tally(), 0
    for text, label in rows.each_row(data, name, base):
        tally.labels[label] += 1
        if len(tally.labels) > MOST_LABELS:
            raise UnreadableData(
                f"{name} has more than {MOST_LABELS} different labels",
                param="data.columns.label",
                remedy="Name the column that holds the class of each row.",
            )
        characters += len(text)
        if tally.labels.total() > MOST_ROWS or characters > MOST_CHARACTERS:
            raise UnreadableData(
                f"{name} has more than {MOST_ROWS:,} rows or {MOST_CHARACTERS:,} characters",
                param=f"data.splits.{name}",
                remedy="Send a sample of the rows.",
            )
        words = len(text.split())
        tally.words += words
        tally.longest = max(tally.longest, words)
    return tally


def _learnable(tallies: dict[Split, _Tally]) -> list[CompressionError]:
    train = tallies["train"].labels
    problems: list[CompressionError] = []
    if len(train) == 1:
        cause = f"all {train.total()} rows of train bear the label {next(iter(train))!r:.100}"
        problems.append(SingleLabel(cause, param="data.splits.train"))
    for name, tally in tallies.items():
        unseen = {label: count for label, count in tally.labels.items() if label not in train}
        if unseen:
            label, count = next(iter(unseen.items()))
            others = f", and {len(unseen) - 1} more labels" if len(unseen) > 1 else ""
            cause = f"{count} rows of {name} have the label {label!r:.100}, which train lacks{others}"
            problems.append(UnseenLabel(cause, param=f"data.splits.{name}"))
    if not problems:
        labels = tuple(label for label, count in train.items() for _ in range(min(count, ENOUGH_TO_CARVE)))
        standing = rows.Rows(texts=("",) * len(labels), labels=labels)
        try:
            rows.carve(dict.fromkeys(tallies, standing), seed=0)
        except CompressionError as problem:
            problems.append(problem)
    return problems
