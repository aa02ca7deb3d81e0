"""Cache of a teacher's features per row: in memory, or in a file that is removed with the store."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from compression.system.row_file import RowFile

HALF = 2  #: bytes per value. float16 stores the states to three digits, far finer than a narrower student can reproduce them.


class MemoryFeatureStore:
    """Stores each row's states, (states, tokens, width) in float16, in a list."""

    def __init__(self, rows: int) -> None:
        self._states: list[Tensor] = [torch.empty(0)] * rows

    def put(self, row: int, states: Tensor) -> None:
        """Store a row's states, float16 on the CPU."""
        self._states[row] = states.clone()

    def get(self, rows: Sequence[int]) -> list[Tensor]:
        """Return the states of the given rows."""
        return [self._states[row] for row in rows]

    def close(self) -> None:
        """Free the stored states."""
        self._states = []


class DiskFeatureStore:
    """Stores the states in a file, row after row."""

    def __init__(self, path: Path, tokens: Sequence[int], states: int, width: int) -> None:
        self._shape = states, width
        self._file = RowFile(path, [count * states * width * HALF for count in tokens])

    def put(self, row: int, states: Tensor) -> None:
        """Write a row's states. Raises OSError if the disk is full."""
        self._file.write(row, states.contiguous().view(torch.uint8).numpy().tobytes())

    def get(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the states of the given rows."""
        states, width = self._shape
        return [torch.frombuffer(self._file.read(row), dtype=torch.float16).view(states, -1, width) for row in rows]

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()


FeatureStore = MemoryFeatureStore | DiskFeatureStore
