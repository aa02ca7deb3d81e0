"""Decoded images of one size, in memory or, if they are many, in a file. Torch-free."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from compression.modalities.image.dataset import ImageDataset
from compression.modalities.image.locations import ImageOpener, Location
from compression.modalities.image.preprocessing import Bytes, ImagePreprocessing, resized
from compression.schema.recipe.base import Split
from compression.system.row_file import RowFile

MOST_IN_MEMORY = 1 << 30  #: bytes of a split


class PixelStore(Protocol):
    """Images of 8 bits, (rows, height, width, 3)."""

    def put(self, row: int, pixels: Bytes) -> None:
        """Store an image, (height, width, 3)."""

    def get(self, rows: Sequence[int]) -> Bytes:
        """Return a copy of some images, (rows, height, width, 3)."""


class MemoryPixels:
    """Images in one array."""

    def __init__(self, rows: int, size: tuple[int, int]) -> None:
        self._pixels = np.empty((rows, *size, 3), np.uint8)

    def put(self, row: int, pixels: Bytes) -> None:
        """Store an image."""
        self._pixels[row] = pixels

    def get(self, rows: Sequence[int]) -> Bytes:
        """Return a copy of some images."""
        return self._pixels[list(rows)]


class FilePixels:
    """Images in a temporary file, which goes with this object. Read, not mapped: see `RowFile`."""

    def __init__(self, rows: int, size: tuple[int, int]) -> None:
        self._shape = (*size, 3)
        folder = tempfile.mkdtemp(prefix="lathe-images-")
        self._file = RowFile(Path(folder) / "pixels", [3 * size[0] * size[1]] * rows)
        weakref.finalize(self, _remove, self._file, folder)

    def put(self, row: int, pixels: Bytes) -> None:
        """Store an image. Raises OSError if the disk is full."""
        self._file.write(row, np.ascontiguousarray(pixels).data.cast("B"))

    def get(self, rows: Sequence[int]) -> Bytes:
        """Return a copy of some images."""
        return np.stack([np.frombuffer(self._file.read(row), np.uint8).reshape(self._shape) for row in rows])


def _remove(file: RowFile, folder: str) -> None:
    file.close()
    shutil.rmtree(folder, ignore_errors=True)


_STORES: "WeakValueDictionary[tuple[tuple[Location, ...], ImagePreprocessing], MemoryPixels | FilePixels]" = (
    WeakValueDictionary()
)
"""Stores in use: models whose inputs differ in mean and deviation alone share them."""


def stored_pixels(dataset: ImageDataset, split: Split, how: ImagePreprocessing) -> PixelStore:
    """Decode and resize a split's images, unless a store of them is in use. Raises UnreadableData."""
    places = dataset.splits[split].places
    key = places, how.geometry()
    if (found := _STORES.get(key)) is not None:
        return found
    size = 3 * how.size[0] * how.size[1] * len(places)
    store = (MemoryPixels if size <= MOST_IN_MEMORY else FilePixels)(len(places), how.size)
    opener = ImageOpener(dataset.base)
    for row, place in enumerate(places):
        store.put(row, resized(opener.open(place), how, place.name(dataset.base)))
    opener.close()
    _STORES[key] = store
    return store
