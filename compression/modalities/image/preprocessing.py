"""Turns decoded images into a network's input, as stock image processors do with Pillow. Torch-free."""

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from compression.modalities.image.decoding import MOST_PIXELS
from compression.models.files.preprocessor_config import INTERPOLATIONS, ImagePreprocessing as ImagePreprocessing
from compression.schema.errors import UnreadableData

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0)}
"""Channels of an RGB image in the order of a network's input."""


def resized(image: Image.Image, how: ImagePreprocessing, name: str) -> Bytes:
    """Resize an RGB image and cut out its centre -> (height, width, 3). Raises UnreadableData if it has another size."""
    target = _target(image.size, how)
    if target is not None and target[0] * target[1] > MOST_PIXELS:
        cause = f"{name} is so narrow that it would be resized to {target[0]:,} × {target[1]:,} pixels"
        raise UnreadableData(cause, param=name, remedy="Leave it out, or cut a part out of it.")
    if target is not None:
        image = image.resize(target, Image.Resampling(INTERPOLATIONS.index(how.interpolation)))
    (height, width), (wide, high) = how.size, image.size
    if how.crop and high >= height and wide >= width:
        top, left = (high - height) // 2, (wide - width) // 2
        image = image.crop((left, top, left + width, top + height))
    if image.size != (width, height):
        cause = f"{name} has {wide} × {high} pixels, and the model reads {width} × {height} without resizing"
        remedy = "Send images of that size, or a preprocessor_config.json with do_resize."
        raise UnreadableData(cause, param=name, remedy=remedy)
    return np.asarray(image)


def _target(size: tuple[int, int], how: ImagePreprocessing) -> tuple[int, int] | None:
    """Return the width and height to resize to. size: of the image, likewise."""
    if how.exact is not None:
        return how.exact[1], how.exact[0]
    if how.shortest is None:
        return None
    short, long = sorted(size)
    other = int(how.shortest * long / short)
    return (how.shortest, other) if size[0] <= size[1] else (other, how.shortest)


def normalized(pixels: Bytes, how: ImagePreprocessing) -> Floats:
    """Compute a network's input. pixels: (rows, height, width, 3), red, green, blue -> (rows, 3, height, width).

    A table of the 256 values of each channel: as exact as stock code, which multiplies in float64, and faster.
    """
    found = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
    for place, channel in enumerate(ORDERS[how.channels]):
        np.take(_table(how)[place], pixels[..., channel], out=found[:, place])
    return found


@cache
def _table(how: ImagePreprocessing) -> Floats:
    """Return the input for each value of each channel, (3, 256)."""
    values = (np.arange(256, dtype=np.float64) * how.scale).astype(np.float32)
    mean, std = (np.array(each, np.float32)[:, None] for each in (how.mean, how.std))
    found: Floats = (values - mean) / std
    return found
