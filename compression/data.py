"""The user's rows: read from files, checked, and split as the recipe needs them. Torch-free.

Validation serves every choice, test the report alone. What is missing of the two is carved from train, stratified, with the
recipe's seed; `Dataset.facts` says so.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.csv
import pyarrow.parquet

from compression.errors import EmptySplit, MissingColumn, MissingFile, SingleLabel, UnreadableData, UnseenLabel
from compression.recipe import Columns, Data, DataFormat, Split
from compression.report import SplitFacts

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CARVED_SHARE: dict[Split, float] = {"test": 0.20, "validation": 0.10}
"""What is carved from train, each as a share of train as it was sent."""
LARGEST_ROW = 4 << 20
"""Bytes of one row: files are read in such pieces, so that a file without line ends costs no more memory than one with."""
BATCH_ROWS = 512
"""Rows of Parquet at a time: a few kilobytes of it can stand for as many rows of any length as their sender likes."""
LONGEST_LABEL = 200
"""Characters. Labels are listed in facts, reports and a model's config."""


@dataclass(frozen=True)
class Rows:
    """Texts with their labels, in the order of the files."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, positions: list[int]) -> "Rows":
        """Return the rows at `positions`, in that order."""
        return Rows(tuple(self.texts[i] for i in positions), tuple(self.labels[i] for i in positions))


@dataclass(frozen=True)
class Dataset:
    """Three splits whose labels all occur in train. `labels` gives each label its id."""

    labels: tuple[str, ...]
    splits: dict[Split, Rows]
    carved: frozenset[Split]

    def ids(self, split: Split) -> list[int]:
        """Return the label ids of a split."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return [numbers[label] for label in self.splits[split].labels]

    def in_order(self, labels: tuple[str, ...]) -> "Dataset":
        """Number the same labels in another order, for example that of a model's head."""
        if set(labels) != set(self.labels) or len(labels) != len(self.labels):
            raise ValueError(f"{labels} are not the dataset's labels {self.labels}")
        return replace(self, labels=labels)

    def facts(self) -> dict[str, SplitFacts]:
        """Say what each split holds."""
        return {
            name: SplitFacts(
                rows=len(rows), carved_from_train=name in self.carved, labels=dict(sorted(Counter(rows.labels).items()))
            )
            for name, rows in self.splits.items()
        }


def load(data: Data, base: Path, *, seed: int) -> Dataset:
    """Read all splits and carve the missing ones. Relative paths are taken from `base`.

    Raises MissingFile, UnreadableData, MissingColumn, EmptySplit, SingleLabel and UnseenLabel.
    """
    given = {name: read_split(data, name, base) for name in SPLITS if name in data.splits}
    check(given)
    splits = carve(given, seed)
    labels = tuple(sorted(set(splits["train"].labels)))
    return Dataset(labels=labels, splits=splits, carved=frozenset(splits) - frozenset(given))


def check(given: dict[Split, Rows]) -> None:
    """Refuse splits that nothing can be learned from. Raises EmptySplit, SingleLabel and UnseenLabel."""
    for name, rows in given.items():
        if not rows:
            raise EmptySplit(f"{name} has no rows", param=f"data.splits.{name}")
    known = set(given["train"].labels)
    if len(known) < 2:
        raise SingleLabel(f"all {len(given['train'])} rows of train bear the label {known.pop()!r}", param="data.splits.train")
    for name, rows in given.items():
        for number, label in enumerate(rows.labels, start=1):
            if label not in known:
                raise UnseenLabel(
                    f"row {number} of {name} has the label {label!r}, which train lacks", param=f"data.splits.{name}"
                )


def carve(given: dict[Split, Rows], seed: int) -> dict[Split, Rows]:
    """Complete the splits from train: the same share of each label, drawn with `seed`; one row of a label always stays.

    Raises EmptySplit where train is too small to give a row.
    """
    train = given["train"]
    missing = [name for name in CARVED_SHARE if name not in given]
    taken: dict[Split, list[int]] = {name: [] for name in missing}
    kept: list[int] = []
    draw = random.Random(seed)
    for label in sorted(set(train.labels)):
        positions = [i for i, other in enumerate(train.labels) if other == label]
        draw.shuffle(positions)
        whole = len(positions)
        for name in missing:
            count = min(max(round(whole * CARVED_SHARE[name]), 1), len(positions) - 1)
            taken[name] += positions[:count]
            positions = positions[count:]
        kept += positions
    splits: dict[Split, Rows] = {}
    for name in SPLITS:
        if name in given and name != "train":
            splits[name] = given[name]
            continue
        splits[name] = train.at(sorted(kept if name == "train" else taken[name]))
        if not splits[name]:
            raise EmptySplit(f"train has {len(train)} rows: too few to carve {name} from", param=f"data.splits.{name}")
    return splits


def read_split(data: Data, name: Split, base: Path) -> Rows:
    """Read the files of one split, one after the other. Raises MissingFile, UnreadableData and MissingColumn."""
    texts, labels = [], []
    for text, label in each_row(data, name, base):
        texts.append(text)
        labels.append(label)
    return Rows(tuple(texts), tuple(labels))


def each_row(data: Data, name: Split, base: Path) -> Iterator[tuple[str, str]]:
    """Yield (text, label) of a split, one row in memory at a time. Raises MissingFile, UnreadableData and MissingColumn."""
    for number, file in enumerate(data.splits[name]):
        path = base / file
        if not path.is_file():
            raise MissingFile(f"{file} is not there", param=f"data.splits.{name}[{number}]")
        for row, text, label in read_file(path, data.format, data.columns):
            yield _text(text, file, row), _label(label, file, row)


def read_file(path: Path, kind: DataFormat, columns: Columns) -> Iterator[tuple[int, Any, Any]]:
    """Yield (row number from 1, text, label) as the file has them. Raises UnreadableData and MissingColumn."""
    if kind == "jsonl":
        yield from _read_jsonl(path, columns)
        return
    try:
        names, batches = (_csv if kind == "csv" else _parquet)(path, columns)
        for column in (columns.text, columns.label):
            _require(column, names, columns, path.name)
        row = 0
        for batch in batches:
            pairs = zip(batch.column(columns.text).to_pylist(), batch.column(columns.label).to_pylist(), strict=True)
            for text, label in pairs:
                row += 1
                yield row, text, label
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise UnreadableData(f"{path.name} is not readable as {kind}: {problem}", param=path.name) from problem


def _csv(path: Path, columns: Columns) -> tuple[list[str], Iterator[arrow.RecordBatch]]:
    with arrow.csv.open_csv(path, _csv_blocks(), _csv_rows()) as file:
        names = file.schema.names
    return names, _csv_batches(path, columns)


def _csv_batches(path: Path, columns: Columns) -> Iterator[arrow.RecordBatch]:
    # Texts and labels stay as they are written: without the explicit types "007" would become 7 and "NA" nothing.
    wanted = {columns.text: arrow.string(), columns.label: arrow.string()}
    as_written = arrow.csv.ConvertOptions(column_types=wanted, include_columns=list(wanted), strings_can_be_null=False)
    with arrow.csv.open_csv(path, _csv_blocks(), _csv_rows(), as_written) as file:
        yield from file


def _csv_blocks() -> arrow.csv.ReadOptions:
    return arrow.csv.ReadOptions(block_size=LARGEST_ROW)


def _csv_rows() -> arrow.csv.ParseOptions:
    return arrow.csv.ParseOptions(newlines_in_values=True)


def _parquet(path: Path, columns: Columns) -> tuple[list[str], Iterator[arrow.RecordBatch]]:
    file = arrow.parquet.ParquetFile(path)
    # Reading starts with the first batch, after the columns were found to be there.
    return file.schema_arrow.names, file.iter_batches(BATCH_ROWS, columns=[columns.text, columns.label])


def _read_jsonl(path: Path, columns: Columns) -> Iterator[tuple[int, Any, Any]]:
    # Line by line and not by Arrow, which names no row, makes dates of texts that look like one and trips over mixed types.
    with path.open("rb") as lines:
        for row, line in enumerate(iter(lambda: lines.readline(LARGEST_ROW + 1), b""), start=1):
            if len(line) > LARGEST_ROW:
                raise UnreadableData(
                    f"row {row} of {path.name} is longer than {LARGEST_ROW:,} bytes", param=f"{path.name}:{row}"
                )
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8-sig" if row == 1 else "utf-8"))
            except (ValueError, RecursionError) as problem:
                raise UnreadableData(
                    f"row {row} of {path.name} is not JSON: {problem}", param=f"{path.name}:{row}"
                ) from problem
            if not isinstance(found, dict):
                raise UnreadableData(f"row {row} of {path.name} is not a JSON object", param=f"{path.name}:{row}")
            for column in (columns.text, columns.label):
                _require(column, list(found), columns, f"row {row} of {path.name}")
            yield row, found[columns.text], found[columns.label]


def _require(column: str, names: list[str], columns: Columns, where: str) -> None:
    if column not in names:
        field = "text" if column == columns.text else "label"
        raise MissingColumn(
            f"{where} has no column {column!r}; it has {', '.join(map(repr, names[:20]))}", param=f"data.columns.{field}"
        )


def _text(value: Any, file: str, row: int) -> str:
    if not isinstance(value, str):
        raise UnreadableData(f"row {row} of {file}: the text is {_kind(value)}, not a string", param=f"{file}:{row}")
    if len(value) > LARGEST_ROW:
        raise UnreadableData(f"row {row} of {file} is longer than {LARGEST_ROW:,} characters", param=f"{file}:{row}")
    return _encodable(value, file, row)


def _label(value: Any, file: str, row: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UnreadableData(
            f"row {row} of {file}: the label is {_kind(value)}, not a string, integer or boolean", param=f"{file}:{row}"
        )
    if len(value) > LONGEST_LABEL or "\0" in value:
        raise UnreadableData(
            f"row {row} of {file}: the label is longer than {LONGEST_LABEL} characters or holds a NUL", param=f"{file}:{row}"
        )
    return _encodable(value, file, row)


def _encodable(value: str, file: str, row: int) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer and no report can take.
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise UnreadableData(f"row {row} of {file} is not valid Unicode: {problem}", param=f"{file}:{row}") from problem
    return value


def _kind(value: Any) -> str:
    return "empty" if value is None or value == "" else f"of type {type(value).__name__}"
