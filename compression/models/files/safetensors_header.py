"""Check safetensors files byte by byte before anything opens them.

Format: huggingface/safetensors, README: 8 bytes, little-endian, the header's length; the header, JSON of name → {dtype, shape,
data_offsets}; the data, which the tensors must fill without gap or overlap.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compression.models.files.json_file import BadJson, read_file, read_object
from compression.schema.errors import CompressionError, ConfigMismatch, DamagedCheckpoint, MissingFile, UnsafeCheckpoint
from compression.schema.report.measurements import Uploaded

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_HEADER = 4 << 20
"""Bytes; ten thousand tensors take about one million."""
LARGEST_HEADERS = 64 << 20
"""Bytes of all shards' headers together. Each header may have the maximum size, and there may be many shards."""
LARGEST_INDEX = 16 << 20
MOST_SHARDS = 1_024
MOST_DIMENSIONS = 8
CHUNK = 1 << 20
WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element."""
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of the floating-point types."""
EXPONENTS: dict[str, tuple[str, int]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""The unsigned type of the same width, and the exponent's bits: all set in a value that is infinite or not a number."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as its file's header declares it. `start` and `end` are offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int


def looks_like_pickle(head: bytes) -> bool:
    """Return whether the first bytes are those of a pickle or of the zip in which torch.save wraps one."""
    # Pickles of protocol 2 and later start with 0x80 and the protocol number. Read as the length of a header, this is valid
    # only if bytes 2 to 7 are almost all zero, and no pickle has such bytes.
    return head.startswith(b"PK\x03\x04") or (len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2:8] != bytes(6))


def read_header(path: Path) -> list[Tensor]:
    """Read and check one file's header against its size. Raises UnsafeCheckpoint and DamagedCheckpoint."""

    def damaged(cause: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"{path.name}: {cause}", param=path.name)

    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        if looks_like_pickle(head):
            raise UnsafeCheckpoint(f"{path.name} is a pickle under another name", param=path.name)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise damaged(f"{size:,} bytes are too few for its header")
        if length > LARGEST_HEADER:
            raise damaged(f"its header claims {length:,} bytes; {LARGEST_HEADER:,} is the most")
        raw = stream.read(length)
    try:
        declared = read_object(raw)
    except BadJson as problem:
        raise damaged(f"its header is no JSON object: {problem}") from problem
    declared.pop("__metadata__", None)
    tensors = [_tensor(name, entry, path.name, 8 + length, damaged) for name, entry in declared.items()]
    if not tensors:
        raise damaged("it holds no tensors")
    end = 8 + length
    for tensor in sorted(tensors, key=lambda item: (item.start, item.end)):
        if tensor.start != end:
            kind = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise damaged(f"tensor {short(tensor.name)} {kind}")
        end = tensor.end
    if end != size:
        raise damaged(f"its tensors end at byte {end:,}, the file at {size:,}")
    return tensors


def _tensor(name: str, entry: Any, file: str, data: int, damaged: Any) -> Tensor:
    label = short(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(f"tensor {label} is not declared by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise damaged(f"tensor {label} has the unknown dtype {short(str(dtype))}")
    if not _naturals(shape) or len(shape) > MOST_DIMENSIONS:
        raise damaged(f"tensor {label} has no proper shape")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(f"tensor {label} has no proper offsets")
    if math.prod(shape) * WIDTHS[dtype] != offsets[1] - offsets[0]:
        raise damaged(f"tensor {label} of {dtype} {shape} does not take the {offsets[1] - offsets[0]:,} bytes it declares")
    return Tensor(name, dtype, tuple(shape), file, data + offsets[0], data + offsets[1])


def _naturals(value: Any) -> bool:
    # Bounded, because the product of numbers with thousands of digits could take unlimited time.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def read_weights(folder: Path) -> tuple[list[Tensor], list[CompressionError]]:
    """Read the headers of the checkpoint's file or shards. Returns the tensors and the errors."""
    if (folder / SINGLE).is_file():
        tensors, more = _read_all(folder, [SINGLE])
        remedy = f"Leave out what lies beside {SINGLE}: it is the model."
        return tensors, [*_surplus(folder, {SINGLE}, f"{SINGLE} is not alone: beside it lies {{}}", remedy), *more]
    if not (folder / INDEX).is_file():
        missing = MissingFile(f"the model has neither {SINGLE} nor {INDEX}", param=SINGLE)
        return [], [missing]
    try:
        content = read_file(folder / INDEX, LARGEST_INDEX)
        index = content.get("weight_map")
    except BadJson as problem:
        return [], [DamagedCheckpoint(f"{INDEX}: {problem}", param=INDEX)]
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        return [], [DamagedCheckpoint(f"{INDEX} has no weight_map of tensor names to files", param=INDEX)]
    problems: list[CompressionError] = []
    present = []
    named = sorted(set(index.values()))
    if len(named) > MOST_SHARDS:
        return [], [DamagedCheckpoint(f"{INDEX} names {len(named):,} files; {MOST_SHARDS:,} is the most", param=INDEX)]
    for file in named:
        if Path(file).name != file or not file.endswith(".safetensors"):
            problems.append(UnsafeCheckpoint(f"{INDEX} points to {short(file)}, outside of the model", param=INDEX))
        elif not (folder / file).is_file():
            problems.append(MissingFile(f"{INDEX} names {short(file)}, which is not there", param=file))
        else:
            present.append(file)
    remedy = "Leave out what the index does not name: its shards are the model."
    problems += _surplus(folder, set(named), f"{INDEX} does not name {{}}", remedy)
    tensors, more = _read_all(folder, present)
    problems += more
    if not problems:
        held = {tensor.name: tensor.file for tensor in tensors}
        if len(held) != len(tensors):
            problems.append(DamagedCheckpoint("two shards hold a tensor of the same name", param=INDEX))
        wrong = sorted(name for name in held.keys() | index.keys() if held.get(name) != index.get(name))
        if wrong:
            problems.append(ConfigMismatch(f"{INDEX} and the shards disagree on {listed(wrong)}", param=INDEX))
        problems += _wrong_total(content.get("metadata"), tensors)
    return tensors, problems


def _surplus(folder: Path, own: set[str], cause: str, remedy: str) -> Iterator[CompressionError]:
    """Refuse safetensors that do not belong to the model. Nothing would read them, but they would be exported and counted."""
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in own)
    if found:
        yield ConfigMismatch(cause.format(listed(found)), param=found[0][:200], remedy=remedy)


def _wrong_total(metadata: Any, tensors: list[Tensor]) -> Iterator[CompressionError]:
    """Compare the total size in the index, if it has one, with the size of the shards."""
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(tensor.end - tensor.start for tensor in tensors)
    if total is not None and (type(total) not in (int, float) or total != held):
        cause = f"{INDEX} states {total!r:.40} bytes of tensors, the shards hold {held:,}"
        remedy = "Save the model again with save_pretrained, or take total_size out of the index's metadata."
        yield DamagedCheckpoint(cause, param=f"{INDEX}:metadata.total_size", remedy=remedy)


def _read_all(folder: Path, files: list[str]) -> tuple[list[Tensor], list[CompressionError]]:
    tensors: list[Tensor] = []
    problems: list[CompressionError] = []
    headers = 0
    for file in files:
        try:
            found = read_header(folder / file)
        except CompressionError as problem:
            problems.append(problem)
        else:
            tensors += found
            headers += min(tensor.start for tensor in found)
            if headers > LARGEST_HEADERS:
                cause = f"the headers of the shards take more than {LARGEST_HEADERS:,} bytes"
                return [], [*problems, DamagedCheckpoint(cause, param=file)]
    return tensors, problems


def not_finite(folder: Path, tensors: list[Tensor]) -> Iterator[CompressionError]:
    """Stream through the float weights; yield an error for each tensor with an infinite or NaN element."""
    for tensor in tensors:
        if tensor.dtype in EXPONENTS:
            kind, exponent = EXPONENTS[tensor.dtype]
            parts = (np.frombuffer(data, kind) for data in chunks(folder, tensor, WIDTHS[tensor.dtype]))
            yield from check_exponents(tensor, parts, exponent, "elements")


def check_exponents(
    tensor: Tensor, parts: Iterator[np.ndarray[Any, Any]], exponent: int, what: str
) -> Iterator[CompressionError]:
    """Yield an error if a number of a tensor is infinite or not a number, or the file became shorter."""
    try:
        finite = not any(bool(((part & exponent) == exponent).any()) for part in parts)
    except DamagedCheckpoint as problem:
        yield problem
        return
    if not finite:
        cause = f"{short(tensor.name)} holds {what} that are infinite or not a number"
        yield DamagedCheckpoint(cause, param=f"{tensor.file}:{short(tensor.name)}")


def chunks(folder: Path, tensor: Tensor, width: int) -> Iterator[bytes]:
    """Yield a tensor's bytes in pieces of whole elements of `width` bytes. Raises DamagedCheckpoint if the file ends early."""
    with (folder / tensor.file).open("rb") as stream:
        stream.seek(tensor.start)
        left = tensor.end - tensor.start
        while left:
            data = stream.read(min(CHUNK // width * width, left))
            if not data or len(data) % width:
                raise DamagedCheckpoint(f"{tensor.file} became shorter while it was read", param=tensor.file)
            left -= len(data)
            yield data


def alike(folder: Path, one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes."""
    both = zip(chunks(folder, one, 1), chunks(folder, other, 1), strict=False)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and all(first == second for first, second in both)


def listed(names: list[str], most: int = 5) -> str:
    """Join the first few names of a list that may be long."""
    shown = ", ".join(map(short, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def short(name: str) -> str:
    """Quote an untrusted string for a message: printable, and not long."""
    return ascii(name if len(name) <= 100 else f"{name[:100]}…")


def stored(folder: Path) -> Uploaded:
    """Return the bytes of a checkpoint's files and the type of most. Raises the first reason why they cannot be read."""
    tensors, problems = read_weights(folder)
    if problems:
        raise problems[0]
    kinds: Counter[str] = Counter()
    for tensor in tensors:
        kinds[FLOATS.get(tensor.dtype, tensor.dtype.lower())] += tensor.end - tensor.start
    files = {tensor.file for tensor in tensors}
    return Uploaded(bytes=sum((folder / file).stat().st_size for file in files), dtype=kinds.most_common(1)[0][0])
