"""Decodes untrusted image files with Pillow, within bounds. Torch-free."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from compression.schema.errors import UnreadableData
from compression.system.image_folders import MOST_BYTES

MOST_PIXELS = 50_000_000
"""Of an image. Decoded, each takes 4 bytes; a file of some kilobytes can stand for any number."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What Pillow may open. It knows more, some of which start other programs (EPS) or are rarely tested."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
"""Modes of gray images of 16 bits: Pillow's conversion to 8 bits cuts values off instead of dividing them."""
REMEDY = "Send a whole copy of it, or leave it out. Images are JPEG, PNG, WebP, BMP, GIF or TIFF."


def decode(source: Path | bytes, name: str) -> Image.Image:
    """Decode an image to RGB of 8 bits: its first frame, turned as its EXIF data say. name: for messages.

    Palettes, grays and CMYK are converted, transparency is dropped, as `convert("RGB")` does. Raises UnreadableData.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MOST_BYTES:
        remedy = "Save it with fewer pixels: networks read a few hundred on each side."
        raise UnreadableData(f"{name} has {size:,} bytes; {MOST_BYTES:,} are the most", param=name, remedy=remedy)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _check_size(image.size, name)
            image.load()
            return as_rgb(image, name)
    except (UnreadableData, MemoryError):
        raise
    except Image.DecompressionBombError as problem:
        raise _too_large(name, str(problem)) from problem
    except Exception as problem:  # Pillow's decoders raise almost anything about damaged files
        cause = f"{name} cannot be decoded: {type(problem).__name__}: {str(problem)[:200]}"
        raise UnreadableData(cause.replace(repr(source), name), param=name, remedy=REMEDY) from problem


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a decoded image to RGB of 8 bits. Raises UnreadableData for pixels of 32 bits."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP:
        return Image.fromarray((np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if upright.mode in ("I", "F"):
        cause = f"{name} has pixels of 32 bits, whose range is not known"
        raise UnreadableData(cause, param=name, remedy="Save it with 8 or 16 bits a pixel.")
    return upright.convert("RGB")


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise _too_large(name, f"{size[0]:,} × {size[1]:,} pixels")


def _too_large(name: str, what: str) -> UnreadableData:
    remedy = "Save it with fewer pixels: networks read a few hundred on each side."
    return UnreadableData(f"{name} is too large ({what}); {MOST_PIXELS:,} pixels are the most", param=name, remedy=remedy)
