"""Checks that a dataset's files can be read and trained on, with one row in memory at a time."""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from compression.modalities.labels import MOST_LABELS
from compression.modalities.text import dataset
from compression.schema.errors import CompressionError, UnreadableData, UnseenLabel
from compression.schema.job_spec import Data, check_data
from compression.schema.recipe.base import DataSplit, Split, Task
from compression.schema.report.report import Values
from compression.schema.validation import DataFacts

MOST_ROWS, MOST_CHARACTERS = 10_000_000, 2**31
"""Limits of a split: the engine holds its rows in memory, and a few kilobytes of Parquet can stand for any number of rows."""
ENOUGH_TO_CARVE = 20  #: rows of a label; more do not change whether splits can be carved from train


@dataclass
class _Tally:
    """Counts of a split. `labels` counts the names of `dataset.label_names`; the numbers are a regression's labels."""

    labels: Counter[str] = field(default_factory=Counter)
    least: float = math.inf
    most: float = -math.inf
    sum: float = 0.0
    rows: int = 0
    characters: int = 0
    words: int = 0
    longest: int = 0
    empty: int = 0
    digests: "array[int]" = field(default_factory=lambda: array("Q"))  #: 8 bytes for the texts of each row that has a word

    @property
    def values(self) -> Values:
        """Return the minimum, maximum and mean of the numbers."""
        return Values(least=self.least, most=self.most, mean=self.sum / self.rows)


@contextmanager
def _collected(problems: list[CompressionError]) -> Iterator[None]:
    """Append an error of this context to `problems`."""
    try:
        yield
    except CompressionError as problem:
        problems.append(problem)


def check(data: Data, base: Path, task: Task = "text-classification") -> DataFacts | list[CompressionError]:
    """Return the facts about a dataset, or every reason to reject it. Relative paths start at `base`."""
    tallies: dict[Split, _Tally] = {}
    plain, problems = _Tally(), list[CompressionError]()
    with _collected(problems):
        check_data(task, data)
    if problems:
        return problems
    for name in dataset.SPLITS:
        if name in data.splits:
            with _collected(problems):
                tallies[name] = _count(data, name, base, task)
    for name, tally in tallies.items():
        with _collected(problems):
            dataset.check_rows(task, name, tally.rows)
    if "unlabelled" in data.splits:
        with _collected(problems):
            plain = _count(data, "unlabelled", base, dataset.UNLABELLED)
            dataset.check_rows(task, "unlabelled", plain.rows)
    if "train" in tallies and tallies["train"].rows:
        problems += _learnable(tallies, task)
    if problems:
        return problems
    train = tallies["train"]
    rows: dict[DataSplit, int] = {name: tally.rows for name, tally in tallies.items()}
    return DataFacts(
        task=task,
        labels=() if task in dataset.UNNAMED else tuple(sorted(train.labels)),
        rows=rows | ({"unlabelled": plain.rows} if plain.rows else {}),
        label_counts={name: dict(sorted(tally.labels.items())) for name, tally in tallies.items()},
        values={str(name): tally.values for name, tally in tallies.items()} if task == "text-regression" else {},
        mean_words=train.words / train.rows,
        characters={str(name): tally.characters for name, tally in tallies.items()} if task == "causal-lm" else {},
        longest_words=train.longest,
        unlabelled_words=plain.words / max(plain.rows, 1),
        repeated={name: count for name in tallies if (count := _repeated(tallies, name))},
        empty={name: tally.empty for name, tally in (*tallies.items(), ("unlabelled", plain)) if tally.empty},
    )


def _repeated(tallies: Mapping[Split, _Tally], name: Split) -> int:
    """Return how many rows of a split are in train too; of train, if a split is carved from it, how many it repeats."""
    own, train = (np.frombuffer(tallies[one].digests, np.uint64) for one in (name, "train"))
    if name != "train":
        return int(np.isin(own, train).sum())
    counts = np.unique(train, return_counts=True)[1]
    return int(counts[counts > 1].sum()) if len(tallies) < len(dataset.SPLITS) else 0


def _count(data: Data, name: DataSplit, base: Path, task: Task) -> _Tally:
    tally = _Tally()
    for row in dataset.each_row(data, name, base, task):
        tally.rows += 1
        tally.labels.update(dataset.label_names(task, row.label))
        if task == "text-regression":
            tally.least, tally.most = min(tally.least, row.label), max(tally.most, row.label)
            tally.sum += row.label
        if len(tally.labels) > MOST_LABELS:
            cause = f"{name} has more than {MOST_LABELS} different labels"
            remedy = "Name the column that holds the class of each row."
            param = "data.columns.tags" if task == "token-classification" else "data.columns.label"
            raise UnreadableData(cause, param=param, remedy=remedy)
        tally.characters += len(row.text) + len(row.pair or "")
        if tally.rows > MOST_ROWS or tally.characters > MOST_CHARACTERS:
            cause = f"{name} has more than {MOST_ROWS:,} rows or {MOST_CHARACTERS:,} characters"
            raise UnreadableData(cause, param=f"data.splits.{name}", remedy="Send a sample of the rows.")
        words = len(row.text.split()) + len((row.pair or "").split())
        tally.words += words
        tally.longest = max(tally.longest, words)
        if not words:
            tally.empty += 1  # of which a warning of its own tells
            continue
        tally.digests.frombytes(blake2b(f"{row.text}\0{row.pair or ''}".encode(errors="surrogatepass"), digest_size=8).digest())
    return tally


def _learnable(tallies: dict[Split, _Tally], task: Task) -> list[CompressionError]:
    train, problems = tallies["train"], list[CompressionError]()
    with _collected(problems):
        dataset.learnable(task, train.labels, train.rows, {train.least, train.most})
    for name, tally in tallies.items() if task != "question-answering" else ():
        unseen = {label: count for label, count in tally.labels.items() if label not in train.labels}
        if unseen:
            label, count = next(iter(unseen.items()))
            others = f", and {len(unseen) - 1} more labels" if len(unseen) > 1 else ""
            cause = f"{count} rows of {name} have the label {label!r:.100}, which train lacks{others}"
            problems.append(UnseenLabel(cause, param=f"data.splits.{name}"))
    if not problems:
        labels = tuple(label for label, count in train.labels.items() for _ in range(min(count, ENOUGH_TO_CARVE)))
        if "classification" not in task or task == "token-classification":
            labels = ("",) * min(train.rows, ENOUGH_TO_CARVE)
        standing = dataset.TextSplit(texts=("",) * len(labels), labels=labels)
        with _collected(problems):
            dataset.carve(dict.fromkeys(tallies, standing), seed=0, task=task)
    return problems
