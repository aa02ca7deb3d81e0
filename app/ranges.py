"""Byte ranges of a file that never changes (RFC 9110): one range at a time, which is what downloads resume with."""

import base64
import re

from app.errors import RangeNotSatisfiable

_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
"""No file is longer than 18 digits can say, and Python refuses to read numbers of thousands."""


def parse(header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of the range asked for, or None for the whole file. Raises RangeNotSatisfiable.

    Several ranges, another unit or a stale If-Range mean the whole file, as the RFC allows.
    """
    match = _ONE.fullmatch((header or "").strip().replace(" ", ""))
    if match is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(size - int(last), 0), size
    if start >= size or stop <= start:
        raise RangeNotSatisfiable(f"{header} of {size}", param="Range", headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def digest(sha256: str) -> str:
    """Write a hash as Repr-Digest does (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
