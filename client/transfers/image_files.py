"""Tells a whole image file from one that was cut off or is none, without decoding it: the service decodes each once."""

from collections.abc import Callable

KINDS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
PNG = b"\x89PNG\r\n\x1a\n"
OTHERS = (b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
"""How files begin whose end is not told from their beginning: the service finds what they lack."""


def fault(data: bytes) -> str | None:
    """Return what is wrong with an image's file, after its name; None if nothing is seen."""
    if not data:
        return "is empty"
    for begins, ends in FORMS:
        if data.startswith(begins):
            return None if ends(data) else f"is cut off after {len(data):,} bytes"
    return None if data.startswith(OTHERS) else f"is no {KINDS}"


def _jpeg_ends(data: bytes) -> bool:
    """Go from marker to marker up to the end of the image (ITU-T T.81, annex B)."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        marker = data[place + 1]
        if marker == 0xD9:
            return True
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # a byte of the image, or a marker without a length
            place += 2
        elif marker == 0xFF:
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _png_ends(data: bytes) -> bool:
    """Go from chunk to chunk up to the one that ends the image."""
    place = len(PNG)
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        place += 12 + length
        if kind == b"IEND":
            return place <= len(data)
    return False


def _webp_ends(data: bytes) -> bool:
    return data[8:12] == b"WEBP" and len(data) >= 8 + int.from_bytes(data[4:8], "little")


FORMS: tuple[tuple[bytes, Callable[[bytes], bool]], ...] = ((b"\xff\xd8", _jpeg_ends), (PNG, _png_ends), (b"RIFF", _webp_ends))
