"""Reads images and labels from NumPy's .npz files row by row: nothing is unpickled, nor unpacked as a whole. Torch-free."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compression.modalities.image.decoding import MOST_PIXELS
from compression.schema.errors import UnreadableData

SUFFIX = ".npy"
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MOST_IMAGE_BYTES, MOST_LABEL_BYTES = 1 << 36, 1 << 28
"""Of an array, unpacked. Images are read one by one, labels all at once."""
LONGEST_HEADER = 10_000
FAILURES = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError, NotImplementedError, KeyError)
"""What zipfile and NumPy raise for files that are damaged or no .npz."""
USUAL = "Send uint8 values from 0 to 255 of the shape (images, height, width, 3), or (images, height, width) for gray ones."


class Header(NamedTuple):
    """The header of an array. `start`: bytes of the header in its member of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FAILURES as problem:
        cause = f"{path.name} is not readable as npz: {str(problem)[:200]}"
        raise UnreadableData(cause, param=path.name, remedy="Write it with numpy.savez or savez_compressed.") from problem


def array_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's arrays. Raises UnreadableData."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        return tuple(name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX))


def read_labels(path: Path, name: str) -> npt.NDArray[Any]:
    """Read an array of labels: whole numbers, booleans or strings, (rows,) or (rows, 1) -> (rows,). Raises UnreadableData."""
    with _readable(path), zipfile.ZipFile(path) as archive, archive.open(name + SUFFIX) as stream:
        header = _header(archive, name, stream, path)
        where = f"the array {name} of {path.name}"
        shape = header.shape[:1] if header.shape[1:] == (1,) else header.shape
        if header.dtype.kind not in "iubUS" or len(shape) != 1:
            cause = f"{where} has the shape {header.shape} and the type {header.dtype}: these are no labels"
            remedy = "Send one whole number or string for each image, as an array of one dimension."
            raise UnreadableData(cause, param=path.name, remedy=remedy)
        size = prod(header.shape) * header.dtype.itemsize
        if size > MOST_LABEL_BYTES:
            raise UnreadableData(f"{where} has {size:,} bytes; {MOST_LABEL_BYTES:,} are the most", param=path.name)
        data = stream.read(size + 1)
        if len(data) != size:
            raise ValueError(f"{name} has {len(data)} bytes, and its header says {size}")
        found: npt.NDArray[Any] = np.frombuffer(data, header.dtype).reshape(shape)
        return np.char.decode(found, "utf-8") if header.dtype.kind == "S" else found


def image_header(path: Path, name: str) -> Header:
    """Return the header of an array of images. Raises UnreadableData if it is none."""
    with _readable(path), zipfile.ZipFile(path) as archive, archive.open(name + SUFFIX) as stream:
        header = _header(archive, name, stream, path)
    where, (shape, dtype) = f"the array {name} of {path.name}", header[:2]
    if dtype != np.uint8:
        raise UnreadableData(f"{where} is of the type {dtype}, not uint8", param=path.name, remedy=USUAL)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)) or not all(shape[1:]):
        raise UnreadableData(f"{where} has the shape {shape}", param=path.name, remedy=USUAL)
    if header.fortran:
        remedy = "Write it after numpy.ascontiguousarray."
        raise UnreadableData(f"{where} is stored column by column", param=path.name, remedy=remedy)
    if shape[1] * shape[2] > MOST_PIXELS or prod(shape) > MOST_IMAGE_BYTES:
        cause = f"{where} has {prod(shape):,} bytes; {MOST_IMAGE_BYTES:,} are the most, and {MOST_PIXELS:,} pixels of an image"
        raise UnreadableData(cause, param=path.name, remedy="Send smaller images, or a sample of them.")
    return header


def _header(archive: zipfile.ZipFile, name: str, stream: IO[bytes], path: Path) -> Header:
    """Read an array's header and compare it with the size of its member. Raises UnreadableData, or one of FAILURES."""
    entry = archive.getinfo(name + SUFFIX)
    if entry.compress_type not in PACKED:
        raise ValueError(f"{name} is packed by method {entry.compress_type}")
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream, max_header_size=LONGEST_HEADER)
    if dtype.hasobject:
        remedy = "Store numbers or strings of a fixed length: objects would run code when they are read."
        raise UnreadableData(f"the array {name} of {path.name} holds Python objects", param=path.name, remedy=remedy)
    start = stream.tell()
    if entry.file_size != start + prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {entry.file_size - start} bytes, and its header says {prod(shape) * dtype.itemsize}")
    return Header(tuple(shape), dtype, bool(fortran), start)


class ArrayImages:
    """The images of an array, read in ascending order; going back begins anew."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        header = image_header(path, name)
        self._shape, self._start = header.shape[1:], header.start
        self._archive = zipfile.ZipFile(path)
        self._stream: IO[bytes] | None = None
        self._next = 0

    def at(self, number: int) -> npt.NDArray[np.uint8]:
        """Read an image, (height, width[, channels]). Raises UnreadableData if the file is damaged there."""
        size = prod(self._shape)
        with _readable(self.path):
            if self._stream is None or number < self._next:
                self._end_stream()
                self._stream, self._next = self._archive.open(self.name + SUFFIX), 0
                self._stream.read(self._start)
            while True:
                data = self._stream.read(size)
                if len(data) != size:
                    raise EOFError(f"{self.name} ends before row {self._next + 1}")
                self._next += 1
                if self._next > number:
                    return np.frombuffer(data, np.uint8).reshape(self._shape)

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Close the file."""
        self._end_stream()
        self._archive.close()
