"""Where what a teacher says of each row is kept: in memory, or in a file that is removed with the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from compression.system.row_file import RowFile

HALF = 2
"""Bytes of a number. float16 holds the states to three digits, far finer than a narrower student can follow them."""


class FeatureStore(Protocol):
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


class MemoryFeatureStore:
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


class DiskFeatureStore:
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
