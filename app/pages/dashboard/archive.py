"""All files of an artifact as one zip, for the download button. Scripts take the files one by one, with ranges and hashes."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from app.store.storage import Storage


class Entry(NamedTuple):
    """One file of the zip: its name there, its place in storage and its size in bytes."""

    path: str
    key: str
    size: int


class _Buffer(io.RawIOBase):
    """Holds what ZipFile writes until it is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """Return True: ZipFile asks."""
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Keep the bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def zipped(storage: Storage, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield a zip of stored files in constant memory. Weights hardly shrink, so nothing is deflated."""
    buffer = _Buffer()
    with ZipFile(buffer, "w", ZIP_STORED) as archive:
        for entry in entries:
            info = ZipInfo(entry.path)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as out:
                for chunk in storage.read(entry.key, 0, entry.size):
                    out.write(chunk)
                    yield buffer.take()
    yield buffer.take()
