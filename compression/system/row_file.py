"""Rows of bytes in a flat file."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class RowFile:
    """Rows of bytes in a file that `close` removes. Read, not mapped: mapped pages count as the engine's resident memory."""

    def __init__(self, path: Path, sizes: Sequence[int]) -> None:
        """sizes: bytes of each row."""
        self._path, self._sizes = path, list(sizes)
        self._starts, at = [], 0
        for size in self._sizes:
            self._starts.append(at)
            at += size
        self.bytes = at
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": -1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file of another process to read it."""
        vars(self).update(state)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, row: int, data: bytes | memoryview) -> None:
        """Write a row. Raises ValueError if its size differs, OSError if the disk is full."""
        if len(data) != self._sizes[row]:
            raise ValueError(f"row {row} has {len(data)} bytes, not {self._sizes[row]}")
        left, at = memoryview(data), self._starts[row]
        while left:
            done = os.pwrite(self._file, left, at)
            left, at = left[done:], at + done

    def read(self, row: int) -> bytearray:
        """Read a row. Raises OSError if the file ends before the row does."""
        buffer = bytearray(self._sizes[row])
        left, at = memoryview(buffer), self._starts[row]
        while left:
            done = os.preadv(self._file, [left], at)
            if done == 0:
                raise OSError(f"{self._path} ends before row {row}")
            left, at = left[done:], at + done
        return buffer

    def close(self) -> None:
        """Close and remove the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(OSError):
            self._path.unlink()
