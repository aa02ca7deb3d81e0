"""Writes images and their labels to a Parquet file, row by row: what hubs call an image column and a class column.

By pyarrow, which the extra `images` brings. Nothing is compressed, because image files already are, and there are neither
statistics nor dictionaries: the same images make the same bytes.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from client.errors import BadFolder
from compression.schema.extras import pip_install

GROUP_BYTES = 16 << 20
"""Bytes of a group of rows: what the writer keeps in memory, and what a reader reads at once."""


def check_writer(place: Path) -> None:
    """Raise BadFolder where pyarrow is not installed. place: the folder that it would pack."""
    if find_spec("pyarrow") is None:
        remedy = f"{pip_install('images')}; or send Parquet files or npz arrays."
        raise BadFolder(f"{place} is packed into Parquet on the way, and pyarrow is not installed", remedy=remedy)


class ImageParquet:
    """A Parquet file of rows `{image: {bytes, path}, label: number}`, with the labels' names in its metadata."""

    def __init__(self, path: Path, names: Sequence[str], *, image: str = "image", label: str = "label") -> None:
        import pyarrow  # other commands need none of its 50 MB
        import pyarrow.parquet

        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}}, ensure_ascii=False)
        parts = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        self.schema = pyarrow.schema([(image, parts), (label, pyarrow.int64())], {"huggingface": about})
        options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        self._open = ExitStack()
        self._file = self._open.enter_context(pyarrow.parquet.ParquetWriter(path, self.schema, **options))
        self._group = pyarrow.Table.from_pylist
        self._rows: list[dict[str, Any]] = []
        self._waiting, self._names = 0, (image, label)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._open:
            if kind is None and self._rows:
                self._end_group()

    def add(self, data: bytes, path: str, label: int) -> None:
        """Append an image's file, the path that it had, and the number of its label."""
        self._rows.append(dict(zip(self._names, ({"bytes": data, "path": path}, label), strict=True)))
        self._waiting += len(data)
        if self._waiting >= GROUP_BYTES:
            self._end_group()

    def _end_group(self) -> None:
        """Write the rows that wait."""
        self._file.write_table(self._group(self._rows, schema=self.schema))
        self._rows, self._waiting = [], 0
