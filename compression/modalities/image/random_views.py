"""Random views of training images: pure functions of arrays and a random generator. Torch-free."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from compression.modalities.image.preprocessing import Bytes, Floats
from compression.schema.recipe.views import Views

Generator = np.random.Generator
ASPECTS = (3 / 4, 4 / 3)  #: of a part that is cut out and enlarged
ATTEMPTS = 10  #: at a part that lies within the image
OPERATIONS = 2  #: of RandAugment, on each image
LARGEST = 10  #: its largest magnitude


def varied(pixels: Bytes, views: Views, draw: Generator) -> Bytes:
    """Return a random view of each image: cut, mirrored, changed by RandAugment. (rows, height, width, 3), also the result."""
    return np.stack([_varied(one, views, draw) for one in pixels])


def _varied(pixels: Bytes, views: Views, draw: Generator) -> Bytes:
    if views.crop:
        pixels = shifted(pixels, views.crop, draw)
    if views.area < 1:
        pixels = enlarged_part(pixels, views.area, draw)
    if views.flip and draw.random() < 0.5:
        pixels = pixels[:, ::-1]
    return rand_augmented(pixels, views.rand_augment, draw) if views.rand_augment else pixels


def shifted(pixels: Bytes, most: int, draw: Generator) -> Bytes:
    """Move an image by up to `most` pixels along each side; what comes in is black (He et al. 2016). (height, width, 3)"""
    height, width, _ = pixels.shape
    top, left = draw.integers(0, 2 * most + 1, 2)
    return np.pad(pixels, ((most, most), (most, most), (0, 0)))[top : top + height, left : left + width]


def enlarged_part(pixels: Bytes, least: float, draw: Generator) -> Bytes:
    """Cut out a part of at least this share of the area and resize it to the whole's size (Szegedy et al. 2015)."""
    height, width, _ = pixels.shape
    for _ in range(ATTEMPTS):
        area = draw.uniform(least, 1) * height * width
        aspect = np.exp(draw.uniform(*np.log(ASPECTS)))
        wide, high = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            left, top = (int(draw.integers(0, rest + 1)) for rest in (width - wide, height - high))
            box = left, top, left + wide, top + high
            return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box))
    return pixels


def mixed(inputs: Floats, labels: npt.NDArray[np.int64], classes: int, alpha: float, draw: Generator) -> tuple[Floats, Floats]:
    """Mix each row with another of the batch, by one share of Beta(α, α) (Zhang et al. 2018).

    inputs: (rows, …); labels: (rows,) of ids -> mixed inputs, and shares of the labels, (rows, classes), whose cross-entropy is
    the mean of both labels' by that share.
    """
    share, order = np.float32(draw.beta(alpha, alpha)), draw.permutation(len(inputs))
    own = np.eye(classes, dtype=np.float32)[labels]
    return share * inputs + (1 - share) * inputs[order], share * own + (1 - share) * own[order]


def rand_augmented(pixels: Bytes, magnitude: int, draw: Generator) -> Bytes:
    """Apply random operations of one magnitude, 1 to LARGEST (RandAugment: Cubuk et al. 2020). (height, width, 3)"""
    image, strength = Image.fromarray(pixels), magnitude / LARGEST
    for number in draw.integers(0, len(_OPERATIONS), OPERATIONS):
        image = _OPERATIONS[number](image, strength, 1 if draw.random() < 0.5 else -1)
    return np.asarray(image)


Operation = Callable[[Image.Image, float, int], Image.Image]
"""Changes an image by a strength, from 0 to 1, in one of two directions."""


def _moved(matrix: Callable[[float, Image.Image], tuple[float, ...]], most: float) -> Operation:
    def operation(image: Image.Image, strength: float, sign: int) -> Image.Image:
        moved = matrix(sign * strength * most, image)
        return image.transform(image.size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)

    return operation


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * 0.9 * strength)


_OPERATIONS: tuple[Operation, ...] = (
    lambda image, strength, sign: image,  # noqa: ARG005
    lambda image, strength, sign: ImageOps.autocontrast(image),  # noqa: ARG005
    lambda image, strength, sign: ImageOps.equalize(image),  # noqa: ARG005
    lambda image, strength, sign: image.rotate(sign * 30 * strength, Image.Resampling.BILINEAR),
    lambda image, strength, sign: ImageOps.solarize(image, round(256 * (1 - strength))),  # noqa: ARG005
    lambda image, strength, sign: ImageOps.posterize(image, 8 - round(4 * strength)),  # noqa: ARG005
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _moved(lambda by, _: (1, by, 0, 0, 1, 0), 0.3),
    _moved(lambda by, _: (1, 0, 0, by, 1, 0), 0.3),
    _moved(lambda by, image: (1, 0, by * image.width, 0, 1, 0), 0.45),
    _moved(lambda by, image: (1, 0, 0, 0, 1, by * image.height), 0.45),
)
"""Nothing, contrast (2), rotation, solarize, posterize, color, contrast, brightness, sharpness, shear (2), translation (2)."""
