"""Small pictures of images, as pages and reports show them. Torch-free."""

import base64
import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from compression.modalities.image.locations import ImageOpener, Location
from compression.modalities.scoring.base import Row
from compression.schema.report.samples import Sample, cut

SIDE = 96  #: the most pixels of a side
LARGEST_PNG = 4096  #: bytes


def thumbnail(image: Image.Image) -> str:
    """Return a small copy of an RGB image as a data: URI without metadata: as a PNG if that is small, else as a JPEG."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    pixels = Image.fromarray(np.asarray(small))  # without the profile and the notes of the file
    kind, data = "png", _encoded(pixels, "png")
    if len(data) > LARGEST_PNG:
        kind, data = "jpeg", _encoded(pixels, "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=80, optimize=True)
    return stream.getvalue()


def samples(rows: Sequence[Row], labels: tuple[str, ...]) -> tuple[Sample, ...]:
    """Return the pictures and labels of rows of the measuring process, in ascending order. Raises UnreadableData."""
    with closing(ImageOpener(Path())) as opener:
        pictures = [thumbnail(opener.open(Location.of(row))) for row in rows]
    names = [cut(labels[row["label"]]) for row in rows]
    return tuple(Sample(picture=picture, expected=name) for picture, name in zip(pictures, names, strict=True))
