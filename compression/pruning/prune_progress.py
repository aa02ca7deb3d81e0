"""What a cut in steps saves beside each training, for a new attempt to make the earlier cuts again and go on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compression.models.tensors import Tensors
from compression.pruning.scores import ImportanceScores
from compression.quantization.static_int8 import Range

SCORES, RATIOS, RANGES = "scores.", "ratios", "ranges."
"""What names of a save's tensors are or begin with."""


@dataclass(frozen=True)
class PruneProgress:
    """A cut between two of its steps.

    scores: of the whole model; ratios: that the recipe came to, in its order, its target solved; ranges: static ones of each
    layer of the model as it was cut last: of the model as the steps before have trained it, which a new attempt does not have.
    """

    scores: ImportanceScores
    ratios: tuple[float, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def tensors(self) -> Tensors:
        """Name each number, for a save."""
        ranges = {f"{RANGES}{name}": _as_tensor(found) for name, found in self.ranges.items()}
        scores = {f"{SCORES}{name}": found for name, found in self.scores.tensors().items()}
        return {**scores, RATIOS: _as_tensor(self.ratios), **ranges}

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> "PruneProgress | None":
        """Put together what `tensors` named; None if an earlier version saved something else."""
        scores = ImportanceScores.of_tensors(_of(found, SCORES))
        if RATIOS not in found or not scores.units:
            return None
        ranges = {name: (float(range_[0]), float(range_[1])) for name, range_ in _of(found, RANGES).items()}
        return cls(scores, tuple(found[RATIOS].tolist()), ranges)


def _of(found: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _as_tensor(numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
