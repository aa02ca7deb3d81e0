"""Writes images and their labels to a Parquet file, row by row: what hubs call an image column and a class column.

Written here, in Thrift's compact protocol (parquet-format's parquet.thrift), so that the client needs no package of 50 MB, and
so that the same images make the same bytes whatever is installed: an upload of them is then recognised. Values are plain and
not compressed, because image files already are.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

MAGIC = b"PAR1"
GROUP_BYTES = 16 << 20
"""Bytes of a group of rows: what the writer keeps in memory, and what a reader reads at once."""
INT32, INT64, BYTES = 1, 2, 6
"""Parquet's numbers of the types of columns."""
REQUIRED, UTF8, PLAIN, RUN_LENGTH = 0, 0, 0, 3


class Number(NamedTuple):
    """A whole number of Thrift, by default of 32 bits."""

    value: int
    kind: int = 5


def varint(number: int) -> bytes:
    """Encode a number of 0 or more: 7 bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def thrift(value: Any) -> tuple[int, bytes]:
    """Encode a value -> (its type, its bytes). A dict is a struct: number of the field → value."""
    if isinstance(value, Number):
        return value.kind, varint(value.value << 1)  # zigzag; no number here is negative
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return 8, varint(len(text)) + text
    if isinstance(value, dict):
        fields, before = b"", 0
        for number, below in value.items():
            kind, content = thrift(below)
            fields += bytes(((number - before) << 4 | kind,)) + content
            before = number
        return 12, fields + b"\0"
    encoded = [thrift(one) for one in value]
    kind = encoded[0][0]
    size = bytes((len(encoded) << 4 | kind,)) if len(encoded) < 15 else bytes((0xF0 | kind,)) + varint(len(encoded))
    return 9, size + b"".join(content for _, content in encoded)


def long(value: int) -> Number:
    """Return a number of 64 bits."""
    return Number(value, 6)


class ImageParquet:
    """A Parquet file of rows `{image: {bytes, path}, label: number}`, with the labels' names in its metadata."""

    def __init__(self, path: Path, names: Sequence[str], *, image: str = "image", label: str = "label") -> None:
        self.out: BinaryIO = path.open("wb")
        self.out.write(MAGIC)
        self.names, self.image, self.label = names, image, label
        self.rows: list[tuple[bytes, bytes, int]] = []
        self.waiting = self.count = 0
        self.groups: list[dict[int, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self.out.close()

    def add(self, data: bytes, path: str, label: int) -> None:
        """Append an image's file, the path that it had, and the number of its label."""
        self.rows.append((data, path.encode(), label))
        self.waiting += len(data)
        if self.waiting >= GROUP_BYTES:
            self._end_group()

    def _end_group(self) -> None:
        """Write the rows that wait: one page for each column."""
        images, paths, labels = zip(*self.rows, strict=True)
        columns = [
            self._column(BYTES, (self.image, "bytes"), _texts(images)),
            self._column(BYTES, (self.image, "path"), _texts(paths)),
            self._column(INT64, (self.label,), [label.to_bytes(8, "little") for label in labels]),
        ]
        size = sum(column[3][6].value for column in columns)
        self.groups.append({1: columns, 2: long(size), 3: long(len(self.rows))})
        self.count += len(self.rows)
        self.rows, self.waiting = [], 0

    def _column(self, kind: int, path: tuple[str, ...], values: Iterable[bytes]) -> dict[int, Any]:
        """Write a column of a group; return its ColumnChunk."""
        parts, start = list(values), self.out.tell()
        size = sum(map(len, parts))
        page = {1: Number(len(self.rows)), 2: Number(PLAIN), 3: Number(RUN_LENGTH), 4: Number(RUN_LENGTH)}
        _, header = thrift({1: Number(0), 2: Number(size), 3: Number(size), 5: page})
        self.out.write(header)
        self.out.writelines(parts)
        whole = long(len(header) + size)
        facts = {1: Number(kind), 2: [Number(PLAIN), Number(RUN_LENGTH)], 3: path, 4: Number(0), 5: long(len(self.rows))}
        return {2: long(start), 3: {**facts, 6: whole, 7: whole, 9: long(start)}}

    def _finish(self) -> None:
        """Write the last group and the footer."""
        if self.rows:
            self._end_group()
        classes = {"names": list(self.names), "_type": "ClassLabel"}
        features = {self.image: {"_type": "Image"}, self.label: classes}
        about = json.dumps({"info": {"features": features}}, ensure_ascii=False)
        schema = [
            {4: "schema", 5: Number(2)},
            {3: Number(REQUIRED), 4: self.image, 5: Number(2)},
            {1: Number(BYTES), 3: Number(REQUIRED), 4: "bytes"},
            {1: Number(BYTES), 3: Number(REQUIRED), 4: "path", 6: Number(UTF8)},
            {1: Number(INT64), 3: Number(REQUIRED), 4: self.label},
        ]
        facts = {1: Number(1), 2: schema, 3: long(self.count), 4: self.groups, 5: [{1: "huggingface", 2: about}], 6: "lathe"}
        _, footer = thrift(facts)
        self.out.write(footer + len(footer).to_bytes(4, "little") + MAGIC)


def _texts(values: Iterable[bytes]) -> Iterable[bytes]:
    for value in values:
        yield len(value).to_bytes(4, "little")
        yield value
