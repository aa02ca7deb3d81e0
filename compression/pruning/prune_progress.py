"""State of stepwise pruning in training checkpoints: a new attempt repeats the earlier cuts with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compression.models.tensors import Tensors
from compression.pruning.scores import ImportanceScores
from compression.quantization.static_int8 import Range

SCORES, RATIOS, RANGES = "scores.", "ratios", "ranges."  #: names, or prefixes of names, of the tensors in a checkpoint


@dataclass(frozen=True)
class PruneProgress:
    """State of stepwise pruning between two steps."""

    scores: ImportanceScores  #: of the unpruned model
    ratios: tuple[float, ...]  #: the recipe's pruning ratios, in its order, with its target solved
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Static input ranges of each layer as the previous steps trained it; a new attempt does not have that model."""

    def tensors(self) -> Tensors:
        """Return all values as named tensors, for a checkpoint."""
        ranges = {f"{RANGES}{name}": torch.tensor(found, dtype=torch.float64) for name, found in self.ranges.items()}
        scores = {f"{SCORES}{name}": found for name, found in self.scores.tensors().items()}
        return {**scores, RATIOS: torch.tensor(self.ratios, dtype=torch.float64), **ranges}

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> "PruneProgress | None":
        """Rebuild from the output of `tensors`; return None if an earlier version saved a different format."""
        scores = ImportanceScores.of_tensors(_of(found, SCORES))
        if RATIOS not in found or not scores.units:
            return None
        ranges = {name: (float(range_[0]), float(range_[1])) for name, range_ in _of(found, RANGES).items()}
        return cls(scores, tuple(found[RATIOS].tolist()), ranges)


def _of(found: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
