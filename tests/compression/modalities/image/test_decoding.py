"""Images of every kind become RGB of 8 bits; what is damaged or too large is refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compression.modalities.image import decoding
from compression.modalities.image.decoding import decode
from compression.schema.errors import UnreadableData
from tests.support.images import claiming

RAMP = np.linspace(0, 255, 24 * 16 * 3).astype(np.uint8).reshape(16, 24, 3)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("RGB", kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "MPO")),
        *((mode, "PNG") for mode in ("L", "1", "P", "RGBA", "LA")),
        *(("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG")),
    ],
)
def test_every_mode_is_converted_as_stock_code_converts_it(mode: str, kind: str, tmp_path: Path) -> None:
    data = saved(Image.fromarray(RAMP).convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    (tmp_path / "image").write_bytes(data)
    for source in (data, tmp_path / "image"):
        found = decode(source, "image")
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_gray_of_16_bits_keeps_its_range() -> None:
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode(saved(Image.fromarray(deep), kind), "scan"))
        np.testing.assert_array_equal(found, np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_pixels_of_32_bits_are_refused() -> None:
    data = saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(UnreadableData, match=r"scan\.tif has pixels of 32 bits") as problem:
        decode(data, "scan.tif")
    assert "8 or 16 bits" in problem.value.remedy_text


def test_a_photo_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    found = decode(saved(Image.fromarray(RAMP), "PNG", exif=exif), "photo")
    np.testing.assert_array_equal(np.asarray(found), np.rot90(RAMP, -1))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, "animation").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_a_truncated_file_is_refused_by_its_name(kind: str) -> None:
    draw = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(draw), kind)
    with pytest.raises(UnreadableData, match="cat/7 cannot be decoded") as problem:
        decode(data[: len(data) // 2], "cat/7")
    assert problem.value.param == "cat/7"
    assert "whole copy" in problem.value.remedy_text


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff\xe0"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableData, match="x cannot be decoded"):
        decode(data, "x")


@pytest.mark.parametrize("side", [8_000, 11_000, 60_000])
def test_a_bomb_is_refused_before_its_pixels_are_made(side: int) -> None:
    with pytest.raises(UnreadableData, match=r"bomb\.png is too large"):
        decode(claiming(side, side), "bomb.png")


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "large.jpg").open("wb") as stream:
        stream.truncate(decoding.MOST_BYTES + 1)
    with pytest.raises(UnreadableData, match=r"large\.jpg has 33,554,433 bytes"):
        decode(tmp_path / "large.jpg", "large.jpg")
