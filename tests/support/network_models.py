"""Networks in torch with drawn weights and statistics, and rows of random pixels for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compression.modalities.base import TaskAdapter
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.tasks.classification import Classification
from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.networks.graph import Graph
from compression.models.networks.value_shapes import value_shapes


@torch.no_grad()
def drawn_network(graph: Graph, seed: int = 0) -> NetworkForImageClassification:
    """Build a network whose norms, statistics and constants are none of the usual numbers."""
    torch.manual_seed(seed)
    outputs = value_shapes(graph)[graph.output][-1]
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"), num_labels=outputs)).eval()
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.randn_like(value) * 0.3 if name.endswith(("bias", "mean")) else torch.rand_like(value) + 0.5)
        elif name.endswith("value"):
            value.copy_(torch.randn_like(value))
    return model


@dataclass(frozen=True)
class Pixels:
    """Rows of pixels with labels: a split and its batches."""

    values: Tensor  #: (rows, channels, height, width)
    labels: Tensor
    task: TaskAdapter

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"pixel_values": self.values}

    @property
    def mask(self) -> Tensor:
        return torch.ones(len(self.values), 1, dtype=torch.long)

    @property
    def weight(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> list[int]:
        return [1] * len(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def to(self, _: Any) -> "Pixels":
        return self

    def at(self, rows: list[int]) -> "Pixels":
        return replace(self, values=self.values[rows], labels=self.labels[rows])

    def by_length(self, size: int) -> Iterator["Pixels"]:
        for start in range(0, len(self), size):
            yield self.at(list(range(start, min(start + size, len(self)))))


def some_pixels(model: NetworkForImageClassification, rows: int = 8, seed: int = 0) -> Pixels:
    """Draw rows for a network."""
    draw = torch.Generator().manual_seed(seed)
    labels = tuple(f"label {number}" for number in range(model.config.num_labels))
    task = Classification("text-classification", ClassScorer("accuracy", len(labels), None))
    values = torch.randn(rows, *model.config.network.shape, generator=draw)
    return Pixels(values, torch.randint(len(labels), (rows,), generator=draw), task)
