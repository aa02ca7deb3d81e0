"""Where what a teacher says of each row is kept: in memory, or in a file that is removed with the store."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

HALF = 2
"""Bytes of a number. float16 holds the states to three digits, far finer than a narrower student can follow them."""


class Store(Protocol):
    """Keeps (states, tokens, width) of each row in float16."""

    def put(self, row: int, states: Tensor) -> None:
        """Keep a row's states. They are float16, on the CPU."""
        ...

    def get(self, rows: Sequence[int]) -> list[Tensor]:
        """Return the states of some rows."""
        ...

    def close(self) -> None:
        """Free what is kept."""
        ...


class InMemory:
    """A list of tensors."""

    def __init__(self, rows: int) -> None:
        self._states: list[Tensor] = [torch.empty(0)] * rows

    def put(self, row: int, states: Tensor) -> None:
        """Keep a row's states."""
        self._states[row] = states.clone()

    def get(self, rows: Sequence[int]) -> list[Tensor]:
        """Return the states of some rows."""
        return [self._states[row] for row in rows]

    def close(self) -> None:
        """Free what is kept."""
        self._states = []


class RowFile:
    """Rows of bytes in a flat file, which is removed with it.

    It is read and not mapped: mapped pages count as the engine's resident memory, which its worker watches, while the system
    keeps what was read in memory of its own for as long as there is some to spare.
    """

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

    def write(self, row: int, found: bytes | memoryview) -> None:
        """Write a row. Raises ValueError where it is of another size, OSError where the disk is full."""
        if len(found) != self._sizes[row]:
            raise ValueError(f"row {row} has {len(found)} bytes, not {self._sizes[row]}")
        left, at = memoryview(found), self._starts[row]
        while left:
            done = os.pwrite(self._file, left, at)
            left, at = left[done:], at + done

    def read(self, row: int) -> bytearray:
        """Read a row. Raises OSError where the file ends before it does."""
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


class OnDisk:
    """A file, row after row."""

    def __init__(self, path: Path, tokens: Sequence[int], states: int, width: int) -> None:
        self._shape = states, width
        self._file = RowFile(path, [count * states * width * HALF for count in tokens])

    def put(self, row: int, states: Tensor) -> None:
        """Write a row's states. Raises OSError where the disk is full."""
        self._file.write(row, states.contiguous().view(torch.uint8).numpy().tobytes())

    def get(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the states of some rows."""
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> Tensor:
        states, width = self._shape
        return torch.frombuffer(self._file.read(row), dtype=torch.float16).view(states, -1, width)

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
