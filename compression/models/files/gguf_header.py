"""Check a GGUF file byte by byte before anything opens it.

Format: ggml-org/ggml, docs/gguf.md, versions 2 and 3: magic, version, numbers of tensors and of keys; keys with typed values;
name, dimensions, type and offset of each tensor; and, from the next multiple of the alignment, the data, padded to it, without
a gap. Every count and length is bounded and compared with the rest of the file before anything is read for it.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compression.models.files import safetensors_header
from compression.models.files.safetensors_header import Tensor, short
from compression.schema.errors import CompressionError, DamagedCheckpoint, UnsupportedArchitecture

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_TENSORS = 65_536
MOST_KEYS = 4_096
MOST_ITEMS = 4_000_000
"""Items of all arrays together."""
LONGEST_NAME = 64
LONGEST_KEY = 65_535
LONGEST_STRING = 1 << 20
LARGEST_METADATA = 64 << 20
"""Bytes before the data; a vocabulary of a quarter of a million tokens takes some ten million."""
MOST_DIMENSIONS = 4
MOST_ELEMENTS = 2**40
LARGEST_ALIGNMENT = 1 << 16
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, STRING, ARRAY = 4, 8, 9


@dataclass(frozen=True)
class GgufType:
    """How a tensor type is stored: blocks of `elements` values in `bytes` bytes."""

    name: str
    elements: int
    bytes: int
    halves: tuple[int, ...] = ()  #: byte offsets of the float16 scales in a block


KINDS: dict[int, GgufType] = {
    0: GgufType("F32", 1, 4),
    1: GgufType("F16", 1, 2),
    2: GgufType("Q4_0", 32, 18, (0,)),
    3: GgufType("Q4_1", 32, 20, (0, 2)),
    6: GgufType("Q5_0", 32, 22, (0,)),
    7: GgufType("Q5_1", 32, 24, (0, 2)),
    8: GgufType("Q8_0", 32, 34, (0,)),
    10: GgufType("Q2_K", 256, 84, (80, 82)),
    11: GgufType("Q3_K", 256, 110, (108,)),
    12: GgufType("Q4_K", 256, 144, (0, 2)),
    13: GgufType("Q5_K", 256, 176, (0, 2)),
    14: GgufType("Q6_K", 256, 210, (208,)),
    20: GgufType("IQ4_NL", 32, 18, (0,)),
    23: GgufType("IQ4_XS", 256, 136, (0,)),
    30: GgufType("BF16", 1, 2),
}
"""Tensor types by ggml's number: those that models use and the stock reader unpacks."""
KIND_OF = {kind.name: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class Gguf:
    """The content of a file: `metadata` by key, and its tensors, with shapes in torch's order."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def dtype(self) -> str:
        """Return the type that holds most of the bytes."""
        bytes_of: dict[str, int] = {}
        for tensor in self.tensors:
            bytes_of[tensor.dtype] = bytes_of.get(tensor.dtype, 0) + tensor.end - tensor.start
        return max(bytes_of, key=lambda name: bytes_of[name])


class _Header:
    """Reads the file up to its data, and never beyond the bytes that are there."""

    def __init__(self, stream: BinaryIO, name: str, size: int) -> None:
        self._stream = stream
        self._left = min(size, LARGEST_METADATA)
        self._items = MOST_ITEMS
        self._whole = size <= LARGEST_METADATA
        self.name = name
        self.place = 0

    def damaged(self, cause: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"{self.name}: {cause}", param=self.name)

    def take(self, count: int) -> bytes:
        if count > self._left:
            limit = "it ends within its header" if self._whole else f"its header takes more than {LARGEST_METADATA:,} bytes"
            raise self.damaged(limit)
        data = self._stream.read(count)
        if len(data) != count:
            raise self.damaged("it became shorter while it was read")
        self._left -= count
        self.place += count
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, what: str, most: int, form: str = "<Q") -> int:
        found = int(self.number(form))
        if found > most:
            raise self.damaged(f"it claims {found:,} {what}; {most:,} is the most")
        return found

    def string(self, what: str, most: int) -> str:
        raw = self.take(self.count(f"bytes of {what}", most))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise self.damaged(f"{what} is not UTF-8") from problem

    def value(self, kind: int, key: str) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string(f"the value of {short(key)}", LONGEST_STRING)
        if kind != ARRAY:
            raise self.damaged(f"{short(key)} has the unknown type {kind}")
        item, count = self.number("<I"), self.count(f"items in {short(key)}", self._items)
        self._items -= count
        if item == STRING:
            return [self.string(f"an item of {short(key)}", LONGEST_STRING) for _ in range(count)]
        if item not in SCALARS:
            raise self.damaged(f"{short(key)} is an array of type {item}")
        return np.frombuffer(self.take(count * struct.calcsize(SCALARS[item])), SCALARS[item]).tolist()


def read(path: Path) -> Gguf:
    """Read and check a file up to its data. Raises DamagedCheckpoint, and UnsupportedArchitecture for unknown types."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = _Header(stream, path.name, size)
        if header.take(4) != MAGIC:
            raise header.damaged("it does not begin as a GGUF file does")
        version = header.number("<I")
        if version not in VERSIONS:
            raise header.damaged(f"it is of version {version}, or of the other byte order; versions 2 and 3 are known")
        tensors, keys = header.count("tensors", MOST_TENSORS), header.count("keys", MOST_KEYS)
        metadata, alignment = _metadata(header, keys)
        declared = [_declared(header) for _ in range(tensors)]
        data = -(-header.place // alignment) * alignment
    return Gguf(metadata, tuple(_placed(header, declared, data, alignment, size)))


def _metadata(header: _Header, keys: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    alignment = 32
    for _ in range(keys):
        key, kind = header.string("a key", LONGEST_KEY), header.number("<I")
        if key in found:
            raise header.damaged(f"it names the key {short(key)} twice")
        found[key] = header.value(kind, key)
        if key == "general.alignment":
            alignment = found[key]
            if kind != UINT32 or not 8 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
                raise header.damaged(f"general.alignment is {alignment!r:.60}")
    return found, alignment


def _declared(header: _Header) -> tuple[str, tuple[int, ...], GgufType, int]:
    """Read one entry of the tensor table. -> name, shape in torch's order, type, offset in the data"""
    name = header.string("a tensor's name", LONGEST_NAME)
    dimensions = [header.number("<Q") for _ in range(header.count("dimensions", MOST_DIMENSIONS, "<I"))]
    kind, offset = header.number("<I"), header.number("<Q")
    if not dimensions or min(dimensions) < 1 or math.prod(dimensions) > MOST_ELEMENTS:
        raise header.damaged(f"tensor {short(name)} has no proper shape")
    if kind not in KINDS:
        cause = f"{header.name}: tensor {short(name)} is of ggml's type {kind}, which is not one of: {', '.join(KIND_OF)}"
        remedy = "Send the file in a type that is named, or the checkpoint that it was made of."
        raise UnsupportedArchitecture(cause, param=header.name, remedy=remedy)
    if dimensions[0] % KINDS[kind].elements:
        raise header.damaged(f"tensor {short(name)} has rows of {dimensions[0]}, not of whole {KINDS[kind].name} blocks")
    return name, tuple(reversed(dimensions)), KINDS[kind], offset


def _placed(
    header: _Header, declared: list[tuple[str, tuple[int, ...], GgufType, int]], data: int, alignment: int, size: int
) -> Iterator[Tensor]:
    """Yield the tensors with their offsets in the file; they must follow each other."""
    if not declared:
        raise header.damaged("it holds no tensors")
    if len({name for name, *_ in declared}) != len(declared):
        raise header.damaged("it holds two tensors of the same name")
    place = data
    for name, shape, kind, offset in declared:
        if data + offset != place:
            raise header.damaged(f"tensor {short(name)} does not begin where the one before it ends")
        end = place + math.prod(shape) // kind.elements * kind.bytes
        if end > size:
            raise header.damaged(f"tensor {short(name)} ends at byte {end:,}, the file at {size:,}")
        yield Tensor(name, kind.name, shape, header.name, place, end)
        place = -(-end // alignment) * alignment
    if not end <= size <= place:
        raise header.damaged(f"its tensors end at byte {end:,}, the file at {size:,}")


def not_finite(folder: Path, tensors: tuple[Tensor, ...]) -> Iterator[CompressionError]:
    """Stream through the tensors; yield an error for each with a non-finite number or block scale."""
    yield from safetensors_header.not_finite(folder, list(tensors))
    for tensor in tensors:
        kind = KIND_OF[tensor.dtype]
        if kind.halves:
            columns = [start // 2 for start in kind.halves]
            blocks = (np.frombuffer(data, "<u2") for data in safetensors_header.chunks(folder, tensor, kind.bytes))
            scales = (block.reshape(-1, kind.bytes // 2)[:, columns] for block in blocks)
            yield from safetensors_header.check_exponents(tensor, scales, safetensors_header.EXPONENTS["F16"][1], "scales")
