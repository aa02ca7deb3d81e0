"""Images as tensors: a network's inputs with labels. Pixels stay in 8 bits until a batch is made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities.base import TaskAdapter
from compression.modalities.image.dataset import ImageDataset
from compression.modalities.image.pixel_store import PixelStore, stored_pixels
from compression.modalities.image.preprocessing import ImagePreprocessing, normalized
from compression.modalities.image.random_views import mixed, varied
from compression.modalities.modality import IndependentReader
from compression.schema.recipe.base import Split
from compression.schema.recipe.views import Views


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images."""

    pixel_values: Tensor  #: (rows, 3, height, width)
    labels: Tensor  #: (rows,) of ids; where rows are mixed (rows, labels), of shares
    rows: Tensor  #: (rows,), indices in the split, on the CPU
    labelled: Tensor | None = None
    how: ImagePreprocessing | None = None  #: how the images were read

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Return the keyword arguments of a stock model's forward."""
        return {"pixel_values": self.pixel_values}

    @property
    def mask(self) -> Tensor:
        """Return one real position for each row."""
        return torch.ones(len(self.rows), 1, dtype=torch.long, device=self.pixel_values.device)

    @property
    def weight(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def to(self, device: torch.device) -> "ImageBatch":
        """Return the batch with its tensors on `device`; `rows` stay on the CPU."""
        return replace(self, pixel_values=self.pixel_values.to(device), labels=self.labels.to(device))

    def at(self, where: slice | Tensor) -> "ImageBatch":
        """Return some of the rows. where: a slice, or a boolean mask (rows,)."""
        here = where.to(self.rows.device) if isinstance(where, Tensor) else where
        return ImageBatch(self.pixel_values[where], self.labels[where], self.rows[here], how=self.how)

    def split(self, parts: int) -> "list[ImageBatch]":
        """Split into at most `parts` batches with about as many rows each."""
        size = -(-len(self.rows) // parts)
        return [self.at(slice(start, start + size)) for start in range(0, len(self.rows), size)]


@dataclass(frozen=True)
class ImageExamples:
    """A split's images and labels. Only `shuffled` shows views."""

    store: PixelStore
    places: tuple[int, ...]  #: of each row in the store
    labels: Tensor  #: (rows,) of ids
    how: ImagePreprocessing
    task: TaskAdapter
    classes: int  #: number of labels
    views: Views = field(default_factory=Views)
    seed: int = 0  #: of the views
    references: Any = None

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> list[int]:
        """Return one position for each row."""
        return [1] * len(self)

    @property
    def varies(self) -> bool:
        """Return whether `shuffled` shows a row differently each time."""
        return self.views.vary

    def cut_like(self, other: "ImageExamples") -> bool:
        """Return whether another model's inputs are the same numbers."""
        return self.how == other.how

    def at(self, rows: list[int]) -> "ImageExamples":
        """Return the rows with these indices, in this order."""
        return replace(self, places=tuple(self.places[row] for row in rows), labels=self.labels[rows])

    def batch(self, rows: list[int]) -> ImageBatch:
        """Return a batch of the rows with these indices, as they are."""
        pixels = self.store.get([self.places[row] for row in rows])
        inputs = torch.from_numpy(normalized(pixels, self.how))
        return ImageBatch(inputs, self.labels[rows], torch.tensor(rows), how=self.how)

    def without_inputs(self) -> ImageBatch:
        """Return all rows in one batch without pixels: in float32 those of a split may need more memory than there is."""
        return ImageBatch(torch.empty(len(self), 0), self.labels, torch.arange(len(self)), how=self.how)

    def by_length(self, size: int) -> Iterator[ImageBatch]:
        """Yield every row once, in batches, in order and as they are."""
        for start in range(0, len(self), size):
            yield self.batch(list(range(start, min(start + size, len(self)))))

    def shuffled(self, size: int, seed: int) -> Iterator[ImageBatch]:
        """Yield a view of every row once, in batches, in an order and with views that `seed` determines."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        for number, start in enumerate(range(0, len(order), size)):
            rows = order[start : start + size]
            yield self._view(rows, np.random.default_rng([self.seed, seed, number])) if self.varies else self.batch(rows)

    def _view(self, rows: list[int], draw: np.random.Generator) -> ImageBatch:
        pixels = self.store.get([self.places[row] for row in rows])
        inputs, labels = normalized(varied(pixels, self.views, draw), self.how), self.labels[rows]
        if self.views.mixup:
            inputs, shares = mixed(inputs, labels.numpy(), self.classes, self.views.mixup, draw)
            labels = torch.from_numpy(shares)
        return ImageBatch(torch.from_numpy(inputs), labels, torch.tensor(rows), how=self.how)

    def seen_in(self, batch: Any) -> ImageBatch:
        """Return what a batch of another model's examples of the same images shows, as this model reads it.

        Its view is kept; if the model's inputs have another size, it is resized as a whole.
        """
        found: ImageBatch = batch
        if found.how is None or found.how == self.how:
            return found
        return replace(found, pixel_values=reread(found.pixel_values, found.how, self.how), how=self.how)


def reread(inputs: Tensor, before: ImagePreprocessing, after: ImagePreprocessing) -> Tensor:
    """Turn inputs that were read in one way into those of another. (rows, 3, height, width) each."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=inputs.dtype, device=inputs.device)[:, None, None]

    pixels = (inputs * column(before.std) + column(before.mean)) / before.scale
    if before.channels != after.channels:
        pixels = pixels.flip(1)
    if before.size != after.size:
        pixels = functional.interpolate(pixels, after.size, mode="bilinear", antialias=True, align_corners=False)
    return (pixels * after.scale - column(after.mean)) / column(after.std)


@dataclass(frozen=True)
class ImagePreprocessor(IndependentReader):
    """Decodes, resizes and normalizes images for a model."""

    how: ImagePreprocessing

    def encode(self, dataset: ImageDataset, split: Split, task: TaskAdapter) -> ImageExamples:
        """Decode and resize a split's images. Raises UnreadableData."""
        store, labels = stored_pixels(dataset, split, self.how), torch.tensor(dataset.ids(split))
        return ImageExamples(store, tuple(range(len(labels))), labels, self.how, task, len(dataset.labels))

    def reads_like(self, other: "ImagePreprocessor") -> bool:
        """Return whether both give the same numbers."""
        return self.how == other.how

    def write(self, folder: Path) -> None:
        """Write preprocessor_config.json."""
        self.how.write(folder)
