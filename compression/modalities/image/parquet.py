"""Reads images and labels from columns of Parquet files, as hubs write them. Torch-free."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet

from compression.modalities.hub_features import class_names
from compression.modalities.labels import label
from compression.schema.errors import MissingColumn, UnfitLabel, UnreadableData

BATCH_ROWS = 16
MOST_COLUMNS = 10_000
STREAMED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
"""How a file is opened: else a row group's images are all held, which may be the whole file's."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # Arrow's is an ArrowException too
    except (arrow.ArrowException, OSError) as problem:
        raise UnreadableData(f"{path.name} is not readable as parquet: {problem}", param=path.name) from problem


def read_labels(path: Path, image: str, column: str) -> tuple[list[str], tuple[str, ...]]:
    """Read the label of each row -> names, and all names in the order of their numbers if the file has them.

    image: the column of images, of which only the type is checked. Raises UnreadableData, MissingColumn and UnfitLabel.
    """
    with _readable(path):
        file = arrow.parquet.ParquetFile(path, **STREAMED)
        if file.metadata.num_columns > MOST_COLUMNS:
            raise UnreadableData(f"{path.name} has more than {MOST_COLUMNS:,} columns", param=path.name)
        schema = file.schema_arrow
        for key, name in (("image", image), ("label", column)):
            if name not in schema.names:
                there = ", ".join(map(repr, schema.names[:20]))
                raise MissingColumn(f"{path.name} has no column {name!r}; it has {there}", param=f"data.columns.{key}")
        _check_type(schema.field(image).type, image, path)
        names = class_names(schema, column)
        found: list[str] = []
        for batch in file.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                where, param = f"row {len(found) + 1} of {path.name}", f"{path.name}:{len(found) + 1}"
                found.append(_label(value, names, where, param))
    return found, names


def _check_type(kind: arrow.DataType, column: str, path: Path) -> None:
    own = kind
    if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        own = kind.field("bytes").type
    if not (arrow.types.is_binary(own) or arrow.types.is_large_binary(own)):
        cause = f"the column {column!r} of {path.name} is of type {kind!s:.100}, not the bytes of image files"
        remedy = "Send bytes, or a struct {bytes, path} as the datasets library writes it."
        raise UnreadableData(cause, param="data.columns.image", remedy=remedy)


def _label(value: Any, names: tuple[str, ...], where: str, param: str) -> str:
    if names and type(value) is int:
        if not 0 <= value < len(names):
            raise UnfitLabel(f"{where}: the label {value} is none of the {len(names)} that the file names", param=param)
        value = names[value]
    return label(value, where, param)


class ParquetImages:
    """The images of a column, read in ascending order; going back begins at the start of a row group."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        with _readable(path):
            self._file = arrow.parquet.ParquetFile(path, **STREAMED)
        about = self._file.metadata
        self._starts = [0]
        for group in range(about.num_row_groups):
            self._starts.append(self._starts[-1] + about.row_group(group).num_rows)
        self._batches: Iterator[arrow.RecordBatch] = iter(())
        self._column: arrow.Array[Any] = arrow.nulls(0)
        self._first, self._group = 0, -1

    def at(self, number: int) -> bytes:
        """Read the bytes of an image's file. Raises UnreadableData if the row has none."""
        group = bisect_right(self._starts, number) - 1
        with _readable(self.path):
            if number < self._first or group > self._group:
                rest = list(range(group, len(self._starts) - 1))
                self._batches = self._file.iter_batches(BATCH_ROWS, row_groups=rest, columns=[self.column])
                self._first, self._column = self._starts[group], self._column[:0]
            while number >= self._first + len(self._column):
                self._first += len(self._column)
                batch = next(self._batches, None)
                if batch is None:
                    raise OSError(f"it ends before row {number + 1}")
                self._column = batch.column(0)
            self._group = bisect_right(self._starts, self._first) - 1
        value = self._column[number - self._first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            where, param = f"row {number + 1} of {self.path.name}", f"{self.path.name}:{number + 1}"
            remedy = "Write the files' bytes into the column: datasets' embed_external_files does it."
            raise UnreadableData(f"{where} has no bytes of an image", param=param, remedy=remedy)
        return bytes(data)

    def stored_path(self, number: int) -> str:
        """Return the path that the image of the row that was read last had as a file; "" if the column does not say."""
        if not arrow.types.is_struct(self._column.type) or self._column.type.get_field_index("path") < 0:
            return ""
        column: Any = self._column  # the stubs know no struct's fields
        return str(column.field("path")[number - self._first].as_py() or "")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
