"""Rows that are small maps, some of which vary, and a network with running statistics that reads them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.modalities.base import TaskAdapter, label_loss
from compression.modalities.registry import task_of
from compression.schema.recipe.base import Split
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import run_silently
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from tests.support.job_models import alone
from tests.support.tiny_bert import all_phases

CHANNELS, SIDE = 3, 8
LABELS = ("first", "second", "third", "fourth", "fifth")  #: all rows are of the first two


@dataclass(frozen=True)
class MapBatch:
    """A batch: pixels (rows, channels, height, width), labels and row numbers (rows,)."""

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    labelled: None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels}

    @property
    def mask(self) -> Tensor:
        return torch.ones(len(self.rows), 1, dtype=torch.long, device=self.pixels.device)

    @property
    def weight(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "MapBatch":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def at(self, where: slice | Tensor) -> "MapBatch":
        return MapBatch(self.pixels[where], self.labels[where], self.rows[where])

    def split(self, parts: int) -> "list[MapBatch]":
        size = -(-len(self.rows) // parts)
        return [self.at(slice(start, start + size)) for start in range(0, len(self.rows), size)]


@dataclass(frozen=True)
class MapRows:
    """A split of maps. scale: by which this model's preprocessor multiplies them."""

    pixels: Tensor
    labels: Tensor
    task: TaskAdapter
    varies: bool = False
    scale: float = 1.0
    references: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        return [1] * len(self)

    def cut_like(self, other: "MapRows") -> bool:
        return torch.equal(self.pixels, other.pixels)

    def at(self, rows: list[int]) -> "MapRows":
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def batch(self, rows: list[int]) -> MapBatch:
        return MapBatch(self.scale * self.pixels[rows], self.labels[rows], torch.tensor(rows))

    def without_inputs(self) -> MapBatch:
        return self.batch(list(range(len(self))))

    def by_length(self, size: int) -> Iterator[MapBatch]:
        for start in range(0, len(self), size):
            yield self.batch(list(range(start, min(start + size, len(self)))))

    def shuffled(self, size: int, seed: int) -> Iterator[MapBatch]:
        """Yield batches; if rows vary, each is mirrored or not and mixed with the row before it."""
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=draw).tolist()
        for start in range(0, len(order), size):
            found = self.batch(order[start : start + size])
            if self.varies:
                mirrored = torch.rand(len(found.rows), generator=draw) < 0.5
                seen = torch.where(mirrored[:, None, None, None], found.pixels.flip(3), found.pixels)
                found = replace(found, pixels=0.7 * seen + 0.3 * seen.roll(1, dims=0))
            yield found

    def seen_in(self, batch: MapBatch) -> MapBatch:
        """Return a batch whose maps another model's rows show at `scale` 1."""
        return replace(batch, pixels=self.scale * batch.pixels)


def maps(count: int, seed: int, *, varies: bool = False) -> MapRows:
    """Draw rows whose label says which channel is brighter, of the first two."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, CHANNELS, SIDE, SIDE, generator=draw) + 2
    labels = torch.randint(2, (count,), generator=draw)
    pixels[torch.arange(count), labels] += 1
    return MapRows(pixels, labels, task_of("text-classification", LABELS), varies)


def network_state(model: PreTrainedModel, recipe: Recipe, *, varies: bool = True) -> StageContext:
    """Return the state of a job whose model reads maps; rows of train vary."""
    rows: dict[Split, Any] = {"train": maps(64, 1, varies=varies), "validation": maps(48, 2), "test": maps(16, 3)}
    return StageContext(recipe, rows, model, all_phases(), alone(model, rows))


def trained(model: PreTrainedModel, epochs: int = 6, rate: float = 1e-2) -> PreTrainedModel:
    """Train a network to tell the rows' labels."""
    rows, plan = maps(64, 1), TrainingConfig("prepare", epochs, rate, 16, 0)
    run_silently(train(model, plan, rows, maps(48, 2), label_loss(rows.task, model)))
    return model


class Normalized(nn.Module):
    """A convolution with running statistics, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(CHANNELS, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(6 * 4, len(LABELS))

    def forward(self, pixel_values: Tensor) -> Any:
        """(rows, channels, height, width) -> logits."""
        found = nn.functional.adaptive_avg_pool2d(self.norm(self.conv(pixel_values)).relu(), 2)
        return SimpleNamespace(logits=self.out(self.drop(found.flatten(1))))
