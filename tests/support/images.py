"""Datasets of tiny images whose color decides their class: warm or cool."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as arrow
import pyarrow.parquet
from PIL import Image

from compression.schema.job_spec import Data

CLASSES = ("cool", "warm")


def pixels(label: int, seed: int, side: int = 12) -> npt.NDArray[np.uint8]:
    """An image of a class: noise that is bluer or redder. (side, side, 3)"""
    noise = np.random.default_rng([seed, label]).integers(0, 100, (side, side, 3))
    noise[..., 0 if label else 2] += 120
    return noise.astype(np.uint8)


def encoded(array: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def folder_data(place: Path, train: int = 12, test: int = 6) -> Data:
    """Half of the images of each split are warm: train/warm/0.png …"""
    for split, count, offset in (("train", train, 0), ("test", test, 1000)):
        for number in range(count):
            path = place / split / CLASSES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pixels(number % 2, offset + number)))
    return Data(format="folder", splits={"train": ("train",), "test": ("test",)})


def npz_data(place: Path, rows: int = 12) -> Data:
    images = np.stack([pixels(number % 2, number) for number in range(rows)])
    np.savez_compressed(place / "data.npz", x_train=images, y_train=np.arange(rows) % 2)
    return Data(format="npz", splits={"train": ("data.npz",)})


def parquet_data(place: Path, rows: int = 12, group: int = 5) -> Data:
    """As hubs write it: a struct of bytes and path, numbers of classes, and their names in the schema's metadata."""
    images = [{"bytes": encoded(pixels(number % 2, number)), "path": f"{number}.png"} for number in range(rows)]
    table = arrow.table({"image": images, "label": [number % 2 for number in range(rows)]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["warm", "cool"][::-1], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    arrow.parquet.write_table(table, place / "train.parquet", row_group_size=group)
    return Data(format="parquet", splits={"train": ("train.parquet",)})


def claiming(width: int, height: int) -> bytes:
    """A PNG of some bytes that says that it is so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def of_every_kind(place: Path) -> list[Path]:
    """Write a photo in each form that is no RGB of 8 bits as it is: these are converted."""
    place.mkdir()
    photo, turned = Image.fromarray(pixels(1, 7, 24)[:17]), Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise
    deep = Image.fromarray(np.arange(24 * 17, dtype=np.uint16).reshape(17, 24) * 160)
    photo.convert("CMYK").save(place / "cmyk.jpg")
    photo.convert("CMYK").save(place / "cmyk.tif")
    photo.convert("P").save(place / "palette.gif")
    photo.convert("P").save(place / "transparent_palette.png", transparency=3)
    photo.convert("LA").save(place / "transparent_gray.png")
    Image.merge("RGBA", (*photo.split(), photo.getchannel("R"))).save(place / "transparent.png")
    photo.convert("L").save(place / "gray.jpg")
    photo.save(place / "turned.jpg", exif=turned)
    deep.save(place / "gray_of_16_bits.png")
    deep.save(place / "gray_of_16_bits_turned.png", exif=turned)
    deep.save(place / "gray_of_16_bits.tif")
    Image.fromarray(np.asarray(deep).astype(">u2")).save(place / "gray_of_16_bits_big_endian.tif")
    return sorted(place.iterdir())
