"""The modality: reads JSON lines of feature vectors, checks them, scores answers. Functions import torch where they need it.

Shows `Modality`, by its base `IndependentRows` for rows of one size without optional capabilities, and `Scorer` and
`ArtifactReader`, with which the measuring process reads the test rows and the shipped file without torch.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compression.modalities.modality import SPLITS, IndependentRows
from compression.modalities.scoring.base import Asked, Floats, Row
from compression.modalities.scoring.classification import ClassScorer
from compression.schema.errors import CompressionError, UnreadableData
from compression.schema.job_spec import Data
from compression.schema.report.report import SplitFacts
from compression.schema.validation import DataFacts

TASK = "vector-classification"
Vectors = list[tuple[list[float], str]]


@dataclass(frozen=True)
class VectorDataset:
    """Feature vectors with labels, split by split."""

    splits: dict[str, Vectors]
    labels: tuple[str, ...]
    task: str = TASK
    unlabelled: Sequence[Any] = ()

    def in_order(self, labels: tuple[str, ...]) -> "VectorDataset":
        return replace(self, labels=labels)

    def counts(self, split: str) -> dict[str, int]:
        return dict(Counter(label for _, label in self.splits[split]))

    def facts(self) -> dict[str, SplitFacts]:
        return {
            name: SplitFacts(rows=len(rows), carved_from_train=False, labels=self.counts(name))
            for name, rows in self.splits.items()
        }

    def judged(self, split: str) -> list[Row]:
        return [{"features": features, "label": self.labels.index(label)} for features, label in self.splits[split]]


def read(data: Data, base: Path) -> VectorDataset:
    """Read all three splits. Raises UnreadableData."""
    splits: dict[str, Vectors] = {}
    for name in SPLITS:
        if name not in data.splits:
            raise UnreadableData(f"there is no split {name}", param=f"data.splits.{name}")
        lines = [line for file in data.splits[name] for line in (base / file).read_text("utf-8").splitlines()]
        try:
            rows = [json.loads(line) for line in lines]
            splits[name] = [([float(one) for one in row["features"]], str(row[data.columns.label])) for row in rows]
        except (ValueError, KeyError, TypeError) as problem:
            raise UnreadableData(f"{name}: {problem!r:.200}", param=f"data.splits.{name}") from problem
    sizes = {len(features) for rows in splits.values() for features, _ in rows}
    if len(sizes) != 1:
        raise UnreadableData(f"the rows have vectors of {sorted(sizes)} numbers, which must be one size", param="data")
    return VectorDataset(splits, tuple(sorted({label for _, label in splits["train"]})))


@dataclass(frozen=True)
class VectorInputs:
    """A batch of vectors for a runtime."""

    features: Floats

    @property
    def arrays(self) -> dict[str, Any]:
        return {"features": self.features}

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows, and 0: a vector has no positions."""
        return len(self.features), 0

    def real(self, logits: Floats) -> Floats:
        """Return all logits: nothing is padded."""
        return logits


class VectorReader:
    """Reads rows with an artifact's config.json alone."""

    def __init__(self, folder: Path) -> None:
        self.size = json.loads((folder / "config.json").read_text("utf-8"))["features"]

    def example(self, rows: int, length: int) -> VectorInputs:
        return VectorInputs(np.ones((rows, self.size), np.float32))

    def ask(self, rows: Sequence[Row]) -> Asked:
        return Asked([row["features"] for row in rows], list(range(len(rows))))

    def batches(self, windows: Sequence[Any], size: int) -> Iterator[VectorInputs]:
        for start in range(0, len(windows), size):
            yield VectorInputs(np.array(windows[start : start + size], np.float32))

    def answered(self, window: Any, logits: Floats) -> Floats:
        return logits


class VectorScorer(ClassScorer):
    """Scores classes as any classification does; only the rows are read otherwise."""

    def reader(self, folder: Path, pad_id: int | None = None) -> VectorReader:
        return VectorReader(folder)


class VectorModality(IndependentRows):
    """Feature vectors."""

    def read(self, data: Data, base: Path, task: str, seed: int) -> VectorDataset:
        return read(data, base)

    def check(self, data: Data, base: Path, task: str) -> DataFacts | list[CompressionError]:
        try:
            found = read(data, base)
        except UnreadableData as problem:
            return [problem]
        counts = {name: found.counts(name) for name in found.splits}
        rows = {name: len(rows) for name, rows in found.splits.items()}
        return DataFacts(task=task, labels=found.labels, rows=rows, label_counts=counts, mean_words=0, longest_words=0)

    def scorer(self, task: str, evaluate: Any, labels: tuple[str, ...]) -> VectorScorer:
        return VectorScorer.of(evaluate, labels)

    def task(self, name: str, evaluate: Any, labels: tuple[str, ...]) -> Any:
        """Return the adapter that trains: the one of all classifications."""
        from compression.modalities.tasks.classification import Classification

        return Classification(name, self.scorer(name, evaluate, labels))

    def preprocessor(self, folder: Path, config: Any, length: int) -> Any:
        from lathe_toy.examples import VectorPreprocessor

        return VectorPreprocessor()

    def example_inputs(self, model: Any, batch: int, length: int) -> dict[str, Any]:
        import torch

        return {"features": torch.ones(batch, model.config.features)}

    def free_dimensions(self, model: Any) -> dict[str, dict[int, tuple[str, int | None]]]:
        """Return the dimensions of the ONNX file's inputs that are free: the rows."""
        return {"features": {0: ("batch", None)}}


VECTORS = VectorModality()
