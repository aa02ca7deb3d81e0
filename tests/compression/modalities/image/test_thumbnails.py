"""Small pictures of images: bounded, of any proportion, and without what a file tells beside its pixels."""

import base64
import io
import re

import numpy as np
from PIL import Image, ImageCms

from compression.modalities.image.thumbnails import SIDE, thumbnail
from tests.support.images import pixels


def opened(address: str) -> tuple[str, Image.Image]:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", address).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    return kind, image


def test_a_tiny_image_stays_as_it_is() -> None:
    kind, image = opened(thumbnail(Image.fromarray(pixels(1, 0))))
    assert kind == "png"
    np.testing.assert_array_equal(np.asarray(image), pixels(1, 0))


def test_a_large_one_is_made_small_and_given_as_a_photograph() -> None:
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    address = thumbnail(photograph)
    kind, image = opened(address)
    assert (kind, image.size) == ("jpeg", (SIDE * 2 // 3, SIDE))
    assert len(address) < 1 << 14
    assert photograph.size == (200, 300)
    assert opened(thumbnail(Image.new("RGB", (2000, 1))))[1].size == (SIDE, 1)


def test_what_a_file_tells_beside_its_pixels_stays_behind() -> None:
    image = Image.fromarray(pixels(0, 0))
    image.info = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "comment": b"at home"}
    _, small = opened(thumbnail(image))
    assert "icc_profile" not in small.info
    assert "comment" not in small.info
