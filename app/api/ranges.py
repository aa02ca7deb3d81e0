"""Byte ranges of an immutable file (RFC 9110), one range at a time: enough to resume downloads."""

import base64
import re
from collections.abc import Sequence
from urllib.parse import quote

from app.core.errors import RangeNotSatisfiable

_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
"""18 digits suffice for any file size; Python refuses to parse thousands of digits."""


def parse_range(header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of the requested range, or None for the whole file. Raises RangeNotSatisfiable.

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


def matches_etag(headers: Sequence[str], etag: str) -> bool:
    """Return whether If-None-Match contains the tag; handles lists, weak tags and `*` (RFC 9110, 13.1.2)."""
    named = [tag.strip().removeprefix("W/") for tag in ",".join(headers).split(",")]
    return etag in named or named == ["*"]


def content_disposition(path: str) -> str:
    """Return the Content-Disposition of a file to be saved under its name (RFC 6266)."""
    name = path.rsplit("/", 1)[-1]
    plain = re.sub(r"[^A-Za-z0-9._+=@-]", "_", name)
    return f'attachment; filename="{plain}"' + ("" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}")


def repr_digest(sha256: str) -> str:
    """Return a hash as a Repr-Digest field (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
