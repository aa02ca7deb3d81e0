"""Reads images for a runtime with an artifact's preprocessor_config.json. Torch-free."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from compression.modalities.image.decoding import decode
from compression.modalities.image.locations import ImageOpener, Location
from compression.modalities.image.preprocessing import Bytes, Floats, ImagePreprocessing, normalized, resized
from compression.modalities.scoring.base import Asked, Row
from compression.schema.errors import UnreadableData

RAW = "images"  #: name of the input of files that normalize images themselves
AT_ONCE = 64
"""Rows that are decoded as soon as they are asked about; of more, each batch is decoded when its turn comes."""


@dataclass(frozen=True)
class ImageInputs:
    """A batch of images for a runtime."""

    pixel_values: Floats  #: (rows, 3, height, width)
    images: Bytes | None = None  #: the same before they are normalized, (rows, height, width, 3)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by their inputs' names: a file has one of them."""
        return {"pixel_values": self.pixel_values, **({} if self.images is None else {RAW: self.images})}

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows, and 0: an image has no positions."""
        return len(self.pixel_values), 0

    def real(self, logits: Floats) -> Floats:
        """Return all logits: nothing is padded."""
        return logits


class ImageReader:
    """Decodes, resizes and normalizes images as an artifact's files say."""

    def __init__(self, folder: Path) -> None:
        self.how = ImagePreprocessing.read(folder)
        self._opener = ImageOpener(Path())

    def example(self, rows: int, length: int) -> ImageInputs:  # noqa: ARG002
        """Make a batch of noise, to measure latency on."""
        noise = np.random.default_rng(0).integers(0, 256, (rows, *self.how.size, 3), np.uint8)
        return ImageInputs(normalized(noise, self.how), noise)

    def ask(self, rows: Sequence[Row]) -> Asked:
        """Take the rows as windows, decoded if there are few."""
        windows: list[Any] = list(map(self._pixels, rows)) if len(rows) <= AT_ONCE else list(rows)
        return Asked(windows, list(range(len(rows))))

    def batches(self, windows: Sequence[Any], size: int) -> Iterator[ImageInputs]:
        """Yield batches of `size` images, in order."""
        for start in range(0, len(windows), size):
            found = [one if isinstance(one, np.ndarray) else self._pixels(one) for one in windows[start : start + size]]
            images = np.stack(found)
            yield ImageInputs(normalized(images, self.how), images)

    def answered(self, window: Any, logits: Floats) -> Floats:  # noqa: ARG002
        """Return the logits."""
        return logits

    def _pixels(self, row: Row) -> Bytes:
        return resized(self._image(row), self.how, str(row.get("image", "the image")))

    def _image(self, row: Row) -> Image.Image:
        if "data" in row:
            return decode_asked(row["data"])
        return self._opener.open(Location.of(row))


def decode_asked(given: str) -> Image.Image:
    """Decode the image of a request, in base64. Raises UnreadableData, at `image`."""
    try:
        return decode(base64.b64decode(given, validate=True), "the image")
    except binascii.Error as problem:
        cause = f"the image is not in base64: {problem}"
        raise UnreadableData(cause, param="image", remedy="Encode its file.") from problem
    except UnreadableData as problem:
        problem.param = "image"
        raise
