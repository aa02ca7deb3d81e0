"""Reads the user's rows from files, checks them, and splits them. Torch-free.

Validation serves every choice, test only the report. If either is missing, it is carved from train with the recipe's seed,
stratified if each row has one label; `Dataset.facts` reports it.
"""

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.csv
import pyarrow.parquet

from compression.modalities.carving import FILL_TRAIN, carved_rows
from compression.modalities.hub_features import class_names
from compression.modalities.text import faults
from compression.modalities.text.examples import LARGEST_ROW, RawExample, columns_of, has_lists, parse_example
from compression.schema.errors import EmptySplit, MissingColumn, MissingFile, SingleLabel, UnreadableData, UnseenLabel, listed
from compression.schema.job_spec import Data, check_data
from compression.schema.recipe.base import DataFormat, DataSplit, Split, Task
from compression.schema.report.report import SplitFacts, Values

UNNAMED: tuple[Task, ...] = ("text-regression", "question-answering", "causal-lm")  #: tasks whose rows have no named labels
UNLABELLED: Task = "causal-lm"  #: the task whose rows are like those of `unlabelled`, whatever the job's: a text alone
FEWEST_TEXTS = 2  #: minimum texts of a causal-lm split: the error of a perplexity comes from the variation between texts
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MOST_COLUMNS = 10_000
DELIMITERS = {".tsv": "\t"}  #: by the suffix of a file of format csv; of all others a comma
DAMAGED = "Check the declared format, and write the file again: it may be cut or damaged."
JSON_LINES = "Send JSON lines: one object a line, and no list around them."
BATCH_ROWS = 512  #: rows of Parquet to read at a time: a few kilobytes of it can stand for any number of rows of any length


@dataclass(frozen=True)
class TextSplit:
    """Texts with labels, in the order of the files. `examples.RawExample` defines label, pair and words."""

    texts: tuple[str, ...]
    labels: tuple[Any, ...]
    pairs: tuple[str, ...] | None = None
    words: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, examples: Iterable[RawExample]) -> "TextSplit":
        """Create a split from rows of one task."""
        texts, labels, pairs, words = [], [], [], []
        for example in examples:
            texts.append(example.text)
            labels.append(example.label)
            if example.pair is not None:
                pairs.append(example.pair)
            if example.words is not None:
                words.append(example.words)
        return cls(tuple(texts), tuple(labels), tuple(pairs) or None, tuple(words) or None)

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """Return each row's text, or both texts of a pair."""
        return list(zip(self.texts, self.pairs, strict=True)) if self.pairs is not None else [(text,) for text in self.texts]

    def at(self, positions: list[int]) -> "TextSplit":
        """Return the rows at `positions`, in that order."""
        columns = {name: column for name, column in vars(self).items() if column is not None}
        return replace(self, **{name: tuple(column[i] for i in positions) for name, column in columns.items()})


@dataclass(frozen=True)
class Dataset:
    """Three splits whose labels all occur in train as it was given, and texts without labels for the general phase of
    distillation.
    """

    labels: tuple[str, ...]  #: in the order of their ids; numbers and answers have none
    splits: dict[Split, TextSplit]
    carved: frozenset[Split]
    task: Task = "text-classification"
    unlabelled: tuple[str, ...] = ()

    @property
    def seen(self) -> list[str]:
        """Return all texts but test's, for a job's choices, with second texts, contexts and unlabelled ones."""
        looked_at = [rows for name, rows in self.splits.items() if name != "test"]
        return [*(text for rows in looked_at for texts in (rows.texts, rows.pairs or ()) for text in texts), *self.unlabelled]

    def ids(self, split: Split) -> list[Any]:
        """Return a split's labels in the task's format: ids, lists of ids for tags, numbers or answers."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        labels = self.splits[split].labels
        if self.task == "token-classification":
            return [[numbers[tag] for tag in tags] for tags in labels]
        return [numbers[label] for label in labels] if self.labels else list(labels)

    def judged(self, split: Split) -> list[dict[str, Any]]:
        """Return a split's rows in the format of `scoring`."""
        rows = self.splits[split]
        if self.task == "token-classification":
            return [{"words": words, "label": tags} for words, tags in zip(rows.words or (), rows.labels, strict=True)]
        pairs = rows.pairs or (None,) * len(rows)
        if self.task == "question-answering":
            answers = [[answer.text for answer in answers] for answers in rows.labels]
            questions = zip(rows.texts, pairs, answers, strict=True)
            return [{"question": text, "context": pair, "answers": true} for text, pair, true in questions]
        columns = zip(rows.texts, pairs, self.ids(split), strict=True)
        return [{"text": text, "label": label} | ({"pair": pair} if pair is not None else {}) for text, pair, label in columns]

    def in_order(self, labels: tuple[str, ...]) -> "Dataset":
        """Return the dataset with the same labels in another order, for example that of a model's head."""
        if set(labels) != set(self.labels) or len(labels) != len(self.labels):
            raise ValueError(f"{labels} are not the dataset's labels {self.labels}")
        return replace(self, labels=labels)

    def facts(self) -> dict[str, SplitFacts]:
        """Return a description of each split's content."""
        facts: dict[str, SplitFacts] = {}
        for name, rows in self.splits.items():
            values, numbers = None, rows.labels
            if self.task == "text-regression":
                values = Values(least=min(numbers), most=max(numbers), mean=sum(numbers) / len(numbers))
            labels, carved = counted(self.task, rows.labels), name in self.carved
            facts[name] = SplitFacts(rows=len(rows), carved_from_train=carved, labels=labels, values=values)
        if self.unlabelled:
            facts["unlabelled"] = SplitFacts(rows=len(self.unlabelled), carved_from_train=False, labels={})
        return facts


def label_names(task: Task, label: Any) -> tuple[str, ...]:
    """Return the label names of a row to count: class, tags, or whether its question has an answer."""
    if task == "text-regression":
        return ()
    if task == "token-classification":
        return tuple(label)
    if task == "question-answering":
        return ("answerable" if label else "unanswerable",)
    return () if task == "causal-lm" else (label,)


def counted(task: Task, labels: Iterable[Any]) -> dict[str, int]:
    """Return the number of labels by name."""
    return dict(sorted(Counter(name for label in labels for name in label_names(task, label)).items()))


def load_dataset(data: Data, base: Path, *, seed: int, task: Task = "text-classification") -> Dataset:
    """Read all splits and carve the missing ones. Raises the errors of `each_row`, `check_dataset` and `carve`."""
    check_data(task, data)
    given = {name: read_split(data, name, base, task) for name in SPLITS if name in data.splits}
    check_dataset(given, task)
    splits = carve(given, seed, task)
    # As they were given: what is carved may take a rare tag out of train.
    labels = tuple(counted(task, given["train"].labels)) if task not in UNNAMED else ()
    texts: tuple[str, ...] = ()
    if "unlabelled" in data.splits:
        texts = tuple(row.text for row in each_row(data, "unlabelled", base, UNLABELLED))
        check_rows(task, "unlabelled", len(texts))
    return Dataset(labels, splits, frozenset(splits) - frozenset(given), task, texts)


def check_dataset(given: dict[Split, TextSplit], task: Task = "text-classification") -> None:
    """Reject splits that a model cannot learn from. Raises EmptySplit, SingleLabel and UnseenLabel."""
    for name, rows in given.items():
        check_rows(task, name, len(rows))
    train = given["train"].labels
    learnable(task, counted(task, train), len(train), set(train) if task == "text-regression" else set())
    if task in UNNAMED:
        return
    known = {label for labels in train for label in label_names(task, labels)}
    for name, rows in given.items():
        named = ((row, label) for row, labels in enumerate(rows.labels, start=1) for label in label_names(task, labels))
        for row, label in named:
            if label not in known:
                cause = f"row {row} of {name} has the label {label!r}, which train lacks"
                raise UnseenLabel(cause, param=f"data.splits.{name}")


def check_rows(task: Task, name: DataSplit, rows: int) -> None:
    """Reject a split with too few rows. Raises EmptySplit."""
    if not rows:
        raise EmptySplit(f"{name} has no rows", param=f"data.splits.{name}", remedy=FILL_TRAIN if name == "train" else None)
    if task == "causal-lm" and name in ("validation", "test") and rows < FEWEST_TEXTS:
        cause = f"{name} has one text: the error of a perplexity needs at least {FEWEST_TEXTS}"
        remedy = "Send several texts, such as the articles or chapters of a long one, each a row of its own."
        raise EmptySplit(cause, param=f"data.splits.{name}", remedy=remedy)


def learnable(task: Task, counts: Mapping[str, int], rows: int, numbers: set[float]) -> None:
    """Reject a train split whose rows all have the same label. counts: of `counted`. Raises SingleLabel."""
    param = "data.splits.train"
    if task == "text-regression":
        if len(numbers) < 2:
            raise SingleLabel(f"all {rows} rows of train have the value {next(iter(numbers)):g}", param=param)
    elif task == "question-answering":
        if "answerable" not in counts:
            raise SingleLabel(f"none of the {rows} questions of train has an answer", param=param)
    elif task != "causal-lm" and len(counts) < 2:
        what = "words" if task == "token-classification" else "rows"
        total = sum(counts.values())
        raise SingleLabel(f"all {total} {what} of train have the label {next(iter(counts))!r:.100}", param=param)


def carve(given: dict[Split, TextSplit], seed: int, task: Task = "text-classification") -> dict[Split, TextSplit]:
    """Carve the missing splits from train: the same share of each label, drawn with `seed`; one row of each stays.

    Rows without a class label (numbers, tags, answers) are one stratum. Raises EmptySplit if train is too small.
    """
    train = given["train"]
    strata = train.labels if task in ("text-classification", "text-pair-classification") else ("",) * len(train)
    parts = carved_rows(strata, given, seed, FEWEST_TEXTS if task == "causal-lm" else 1)
    return {name: train.at(parts[name]) if name in parts else given[name] for name in SPLITS}


def read_split(data: Data, name: Split, base: Path, task: Task = "text-classification") -> TextSplit:
    """Read the files of one split, one after the other. Raises the errors of `each_row`."""
    return TextSplit.of(each_row(data, name, base, task))


def each_row(data: Data, name: DataSplit, base: Path, task: Task = "text-classification") -> Iterator[RawExample]:
    """Yield the rows of a split. Raises MissingFile, UnreadableData, MissingColumn and UnfitLabel."""
    if data.format == "csv" and has_lists(task):
        remedy = "Send JSON lines or Parquet."
        raise UnreadableData(f"{task} needs lists, which csv does not have", param="data.format", remedy=remedy)
    for number, file in enumerate(data.splits[name]):
        if not (base / file).is_file():
            raise MissingFile(f"{file} is not there", param=f"data.splits.{name}[{number}]")
        for row, values in read_file(base / file, data.format, columns_of(task, data.columns)):
            yield parse_example(task, values, file, row)


Wanted = Mapping[str, str]  #: key of `columns` → name of the column in the file


def read_file(path: Path, kind: DataFormat, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, key → value) in file order. Raises UnreadableData and MissingColumn."""
    if kind in ("jsonl", "text"):
        yield from (_read_jsonl(path, wanted) if kind == "jsonl" else _read_text(path))
        return
    try:
        names, batches = (_csv if kind == "csv" else _parquet)(path, wanted)
        _require(names, wanted, path.name)
        row, tags = 0, _tag_names(path, wanted) if kind == "parquet" else ()
        for batch in batches:
            for values in zip(*(batch.column(column).to_pylist() for column in wanted.values()), strict=True):
                row += 1
                given = dict(zip(wanted, values, strict=True))
                yield row, {**given, "tags": _named(given["tags"], tags)} if tags else given
    except MemoryError:
        raise  # Arrow's is an ArrowException too
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as problem:
        if kind == "csv" and (found := faults.in_csv(path, delimiter_of(path), LARGEST_ROW)) is not None:
            raise found from problem  # Arrow names no row
        raise UnreadableData(f"{path.name} is not readable as {kind}: {problem}", param=path.name, remedy=DAMAGED) from problem


def delimiter_of(path: Path) -> str:
    """Return what separates the values of a file of format csv."""
    return DELIMITERS.get(path.suffix.lower(), ",")


def _csv(path: Path, columns: Wanted) -> tuple[list[str], Iterator[arrow.RecordBatch]]:
    with path.open(encoding="utf-8", errors="replace", newline="") as lines, contextlib.suppress(csv.Error):
        read = csv.reader(iter(lambda: lines.readline(LARGEST_ROW), ""), delimiter=delimiter_of(path))
        _bounded(path, len(next(filter(None, read), ())))
    with _open_csv(path) as file:
        names = file.schema.names
    return names, _csv_batches(path, columns)


def _csv_batches(path: Path, columns: Wanted) -> Iterator[arrow.RecordBatch]:
    # Texts and labels stay as written: without the explicit types "007" would become 7 and "NA" would become null.
    wanted = dict.fromkeys(columns.values(), arrow.string())
    as_written = arrow.csv.ConvertOptions(column_types=wanted, include_columns=list(wanted), strings_can_be_null=False)
    with _open_csv(path, as_written) as file:
        yield from file


def _open_csv(path: Path, columns: arrow.csv.ConvertOptions | None = None) -> arrow.csv.CSVStreamingReader:
    rows = arrow.csv.ParseOptions(delimiter=delimiter_of(path), newlines_in_values=True)
    return arrow.csv.open_csv(path, arrow.csv.ReadOptions(block_size=LARGEST_ROW), rows, columns)


def _parquet(path: Path, columns: Wanted) -> tuple[list[str], Iterator[arrow.RecordBatch]]:
    file = arrow.parquet.ParquetFile(path)
    _bounded(path, file.metadata.num_columns)
    # Reading starts with the first batch, after the check that the columns exist.
    return file.schema_arrow.names, file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(columns.values())))


def _tag_names(path: Path, columns: Wanted) -> tuple[str, ...]:
    """Return the names of the tags that a file has by number, if tags are wanted."""
    return class_names(arrow.parquet.read_schema(path), columns["tags"]) if "tags" in columns else ()


def _named(tags: Any, names: Sequence[str]) -> Any:
    """Return tags by name, what is no number of a name as it is."""
    if not isinstance(tags, list):
        return tags
    return [names[tag] if type(tag) is int and 0 <= tag < len(names) else tag for tag in tags]


def _bounded(path: Path, columns: int) -> None:
    """Reject a file with so many columns that one batch would fill the memory. Raises UnreadableData."""
    if columns > MOST_COLUMNS:
        cause = f"{path.name} has {columns:,} columns; {MOST_COLUMNS:,} are the most"
        raise UnreadableData(cause, param=path.name, remedy="Send the columns that `columns` names alone.")


def _read_text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    row, held, size = 0, list[str](), 0
    try:
        with path.open(encoding="utf-8-sig", newline=None) as lines:
            for line in iter(lambda: lines.readline(LARGEST_ROW + 1), ""):
                size += len(line)
                if size > LARGEST_ROW:
                    cause = f"text {row + 1} of {path.name} is longer than {LARGEST_ROW:,} characters"
                    remedy = "Part texts by blank lines, or send JSON lines."
                    raise UnreadableData(cause, param=path.name, remedy=remedy)
                if line.strip():
                    held.append(line)
                elif held:
                    row += 1
                    yield row, {"text": "".join(held).removesuffix("\n")}
                    held, size = [], 0
                else:
                    size = 0
    except UnicodeDecodeError as problem:
        raise faults.in_text(path, problem) from problem
    if held:
        yield row + 1, {"text": "".join(held).removesuffix("\n")}


def _read_jsonl(path: Path, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    # Line by line, because Arrow names no row, converts texts that look like dates, and fails on mixed types.
    with path.open("rb") as lines:
        for row, line in enumerate(iter(lambda: lines.readline(LARGEST_ROW + 1), b""), start=1):
            where, param = f"row {row} of {path.name}", f"{path.name}:{row}"
            if len(line) > LARGEST_ROW:
                raise UnreadableData(f"{where} is longer than {LARGEST_ROW:,} bytes", param=param)
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8-sig" if row == 1 else "utf-8"))
            except (ValueError, RecursionError) as problem:
                raise UnreadableData(f"{where} is not JSON: {problem}", param=param, remedy=JSON_LINES) from problem
            if not isinstance(found, dict):
                raise UnreadableData(f"{where} is not a JSON object", param=param, remedy=JSON_LINES)
            _require(list(found), wanted, where)
            yield row, {key: found[column] for key, column in wanted.items()}


def _require(names: list[str], wanted: Wanted, where: str) -> None:
    """Check that all wanted columns are there. Raises MissingColumn, whose param is the first that is not."""
    missing = [key for key, column in wanted.items() if column not in names]
    if missing:
        there, lacking = ", ".join(map(repr, names[:20])), listed([wanted[key] for key in missing])
        columns = "column" if len(missing) == 1 else "columns"
        raise MissingColumn(f"{where} has no {columns} {lacking}; it has {there}", param=f"data.columns.{missing[0]}")
