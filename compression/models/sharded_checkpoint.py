"""Read and write a checkpoint in pieces, so that a whole model is never in memory.

`SafetensorsReader` reads rows of a tensor by the offsets of a checked header. `writing` writes tensors that arrive in pieces
too: their headers come first, and the bytes go to their offsets. Neither maps a file: memory holds only what was requested.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from compression.models.files import safetensors_header, safetensors_layout
from compression.schema.errors import DamagedCheckpoint
from compression.system import durable_files

TYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
"""torch dtypes by their names in safetensors headers."""
NAMES = {dtype: name for name, dtype in TYPES.items()}
BLOCK = 16 << 20
"""Bytes of a tensor that are read at once, unless a single row is larger."""
LARGEST_SHARD = 5_000_000_000
"""Bytes; a larger group of tensors has a shard of its own."""


class SafetensorsReader:
    """Reads tensors of a folder's safetensors file or shards on request. Raises the first problem with the weights."""

    def __init__(self, folder: Path) -> None:
        found, problems = safetensors_header.read_weights(folder)
        if problems:
            raise problems[0]
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in found}

    def names(self) -> list[str]:
        """Return the tensors' names, in the order of their bytes in the files."""
        return sorted(self._tensors, key=lambda name: (self._tensors[name].file, self._tensors[name].start))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which a tensor is stored."""
        return TYPES[self._tensors[name].dtype]

    def file(self, name: str) -> str:
        """Return the name of the file that holds a tensor."""
        return self._tensors[name].file

    def tensor(self, name: str) -> torch.Tensor:
        """Read one whole tensor."""
        tensor = self._tensors[name]
        return self._read(tensor, tensor.start, tensor.end).view(tensor.shape)

    def rows(self, name: str, block: int = BLOCK) -> Iterator[torch.Tensor]:
        """Yield a tensor's rows as (some, ...), at most `block` bytes or one row at once; one without rows comes whole."""
        tensor = self._tensors[name]
        if not prod(tensor.shape) or not tensor.shape:
            yield self.tensor(name)
            return
        row = (tensor.end - tensor.start) // tensor.shape[0]
        step = row * max(1, block // row)
        for start in range(tensor.start, tensor.end, step):
            yield self._read(tensor, start, min(start + step, tensor.end)).view(-1, *tensor.shape[1:])

    def lines(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read slices `start` to `stop` along the last dimension, numbered through all others. -> (stop − start, last)"""
        tensor = self._tensors[name]
        line = tensor.shape[-1] * TYPES[tensor.dtype].itemsize
        return self._read(tensor, tensor.start + start * line, tensor.start + stop * line).view(-1, tensor.shape[-1])

    def _read(self, tensor: safetensors_header.Tensor, start: int, end: int) -> torch.Tensor:
        if start == end:
            return torch.empty(0, dtype=TYPES[tensor.dtype])
        data = bytearray(end - start)
        with (self._folder / tensor.file).open("rb", buffering=0) as stream:
            stream.seek(start)
            view, filled = memoryview(data), 0
            while filled < len(data):  # Linux returns at most 2 GiB per call
                count = stream.readinto(view[filled:])
                if not count:
                    raise DamagedCheckpoint(f"{tensor.file} became shorter while it was read", param=tensor.file)
                filled += count
        return torch.frombuffer(data, dtype=TYPES[tensor.dtype])


@dataclass(frozen=True)
class PlannedTensor:
    """The name, dtype and shape of a tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Return the tensor's size in the file."""
        return prod(self.shape) * self.dtype.itemsize


class ShardWriter:
    """The files that `writing` fills. `folder`: their folder, also for files to be stored beside them."""

    def __init__(self, folder: Path, files: Mapping[str, Sequence[PlannedTensor]], metadata: Mapping[str, str]) -> None:
        self.folder, self._files = folder, files
        self._streams = {name: (folder / name).open("xb", buffering=0) for name in files}
        self._file_of = {tensor.name: name for name, tensors in files.items() for tensor in tensors}
        self._left: dict[str, int] = {}  # bytes that a file still lacks
        self._next: dict[str, int] = {}  # where the next rows of a tensor go in its file
        self._end: dict[str, int] = {}
        for name, tensors in files.items():
            self._begin(name, tensors, {"__metadata__": {**metadata, "format": "pt"}})

    def put(self, name: str, rows: torch.Tensor) -> None:
        """Append rows to a tensor: (some, ...) of its (rows, ...). Raises RuntimeError if it gets more than planned."""
        data = rows.contiguous().reshape(-1).view(torch.uint8).numpy().data
        file, start = self._file_of[name], self._next[name]
        if start + data.nbytes > self._end[name]:
            raise RuntimeError(f"{name} is given more bytes than were planned")
        self._write(file, data, start)
        self._next[name] = start + data.nbytes
        self._left[file] -= data.nbytes
        self._end_if_full(file)

    def finish(self) -> None:
        """Write the index if there are several files. Raises RuntimeError if a tensor got less than planned."""
        unfilled = [name for name, start in self._next.items() if start != self._end[name]]
        if unfilled:
            raise RuntimeError(f"not written to their end: {', '.join(unfilled)}")
        if len(self._files) > 1:
            total = sum(tensor.bytes for tensors in self._files.values() for tensor in tensors)
            index = {"metadata": {"total_size": total}, "weight_map": self._file_of}
            (self.folder / safetensors_header.INDEX).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")

    def close(self) -> None:
        """Close the files, whatever state they are in."""
        for stream in self._streams.values():
            stream.close()

    def _begin(self, file: str, tensors: Sequence[PlannedTensor], header: dict[str, object]) -> None:
        """Write a file's header and make room for its data."""
        end = 0
        for tensor in sorted(tensors, key=lambda one: safetensors_layout.place(one.bytes, one.dtype.itemsize, one.name)):
            start, end = end, end + tensor.bytes
            header[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            self._next[tensor.name], self._end[tensor.name] = start, end
        raw = safetensors_layout.encoded(header)
        for tensor in tensors:
            self._next[tensor.name] += len(raw)
            self._end[tensor.name] += len(raw)
        self._left[file] = end
        self._write(file, raw, 0)
        self._streams[file].truncate(len(raw) + end)
        self._end_if_full(file)

    def _end_if_full(self, file: str) -> None:
        stream = self._streams[file]
        if not self._left[file] and not stream.closed:
            os.fsync(stream.fileno())
            stream.close()

    def _write(self, file: str, data: bytes | memoryview, place: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._streams[file].fileno(), view, place)
            view, place = view[written:], place + written


@contextmanager
def writing(
    place: Path,
    plan: Sequence[Sequence[PlannedTensor]],
    *,
    metadata: Mapping[str, str] | None = None,
    largest: int = LARGEST_SHARD,
) -> Iterator[ShardWriter]:
    """Write a folder of safetensors, named and indexed as transformers does, from tensors in pieces.

    `plan`: groups of tensors in their order, each in one file of at most `largest` bytes, or of one group. Rows are put in
    order: `shards.put("model.norm.weight", rows)`. `place` appears, complete and synced, if the block raises no exception
    (`durable_files.folder`). Raises RuntimeError if a tensor gets more or less than planned.
    """
    with durable_files.folder(place) as folder, closing(ShardWriter(folder, _divided(plan, largest), metadata or {})) as shards:
        yield shards
        shards.finish()


def _divided(plan: Sequence[Sequence[PlannedTensor]], largest: int) -> dict[str, list[PlannedTensor]]:
    """Distribute groups of tensors over files, one file after the other. -> file name → tensors"""
    parts: list[list[PlannedTensor]] = [[]]
    size = 0
    for group in plan:
        more = sum(tensor.bytes for tensor in group)
        if parts[-1] and size + more > largest:
            parts.append([])
            size = 0
        parts[-1] += group
        size += more
    if len(parts) == 1:
        return {safetensors_header.SINGLE: parts[0]}
    return {f"model-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, start=1)}
