"""The order and alignment of tensors in safetensors files, for readers that map files and compute in place.

The format has no gaps between tensors, so alignment comes from the order alone: behind a header that is padded with spaces to a
multiple of 64 bytes, first all tensors whose sizes are multiples of 64, then the others, the wider types first. So each begins
at a multiple of its type's width, and of 64 bytes unless an earlier one of another size is in the way. Stock readers take
tensors in any order, and allow spaces behind the header.
"""

import json
from pathlib import Path

from compression.models.files.safetensors_header import CHUNK, WIDTHS, Tensor, read_header

BOUNDARY = 64  #: bytes of a cache line, and of the widest vector registers


def place(size: int, width: int, name: str) -> tuple[bool, int, str]:
    """Return the key by which tensors are sorted. size: bytes of the tensor; width: bytes of one element."""
    return size % BOUNDARY != 0, -width, name


def encoded(header: dict[str, object]) -> bytes:
    """Return a file's first bytes, up to its data: the header's length and the header, together a multiple of 64 bytes."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % BOUNDARY)
    return len(raw).to_bytes(8, "little") + raw


def align(folder: Path) -> None:
    """Rewrite a folder's safetensors files in this order, unless they have it. Raises DamagedCheckpoint, OSError."""
    for path in folder.glob("*.safetensors"):
        _align(path)


def _align(path: Path) -> None:
    found = sorted(read_header(path), key=lambda tensor: place(tensor.end - tensor.start, WIDTHS[tensor.dtype], tensor.name))
    start = min(tensor.start for tensor in found)
    if start % BOUNDARY == 0 and found == sorted(found, key=lambda tensor: (tensor.start, tensor.end)):
        return
    part = path.with_name(f".{path.name}")
    with path.open("rb") as source, part.open("xb") as target:
        header = json.loads(source.read(start)[8:])
        target.write(encoded(_moved(header, found)))
        for tensor in found:
            source.seek(tensor.start)
            for left in range(tensor.end - tensor.start, 0, -CHUNK):
                target.write(source.read(min(left, CHUNK)))
    part.replace(path)


def _moved(header: dict[str, dict[str, object]], ordered: list[Tensor]) -> dict[str, object]:
    """Return a file's header with its tensors one behind the other."""
    moved: dict[str, object] = {key: header[key] for key in header.keys() & {"__metadata__"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.end - tensor.start
        moved[tensor.name] = {**header[tensor.name], "data_offsets": [start, end]}
    return moved
