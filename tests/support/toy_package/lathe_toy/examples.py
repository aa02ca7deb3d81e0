"""Vectors as tensors: `Preprocessor`, `Examples` and `Batch` for rows of one size, which need no padding."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compression.modalities.base import FixedRows, TaskAdapter
from compression.modalities.modality import IndependentReader
from lathe_toy.modality import VectorDataset


@dataclass(frozen=True)
class VectorBatch:
    """A batch of vectors: (rows, features), with labels and row numbers, (rows,)."""

    features: Tensor
    labels: Tensor
    rows: Tensor
    labelled: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"features": self.features}

    @property
    def mask(self) -> Tensor:
        return torch.ones(len(self.rows), 1, dtype=torch.long, device=self.features.device)

    @property
    def weight(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "VectorBatch":
        return replace(self, features=self.features.to(device), labels=self.labels.to(device))

    def at(self, where: slice | Tensor) -> "VectorBatch":
        return VectorBatch(self.features[where], self.labels[where], self.rows[where])

    def split(self, parts: int) -> "list[VectorBatch]":
        size = -(-len(self.rows) // parts)
        return [self.at(slice(start, start + size)) for start in range(0, len(self.rows), size)]


@dataclass(frozen=True)
class VectorExamples(FixedRows):
    """A split's vectors and labels."""

    features: Tensor
    labels: Tensor
    task: TaskAdapter
    references: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        return [1] * len(self)

    def cut_like(self, other: "VectorExamples") -> bool:
        return torch.equal(self.features, other.features)

    def at(self, rows: list[int]) -> "VectorExamples":
        return replace(self, features=self.features[rows], labels=self.labels[rows])

    def batch(self, rows: list[int]) -> VectorBatch:
        return VectorBatch(self.features[rows], self.labels[rows], torch.tensor(rows))

    def by_length(self, size: int) -> Iterator[VectorBatch]:
        for start in range(0, len(self), size):
            yield self.batch(list(range(start, min(start + size, len(self)))))

    def shuffled(self, size: int, seed: int) -> Iterator[VectorBatch]:
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])


class VectorPreprocessor(IndependentReader):
    """Encodes vectors."""

    def encode(self, dataset: VectorDataset, split: str, task: TaskAdapter) -> VectorExamples:
        rows = dataset.judged(split)
        features = torch.tensor([row["features"] for row in rows])
        return VectorExamples(features, torch.tensor([row["label"] for row in rows]), task)
