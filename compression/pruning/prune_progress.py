"""State of stepwise pruning in training checkpoints: a new attempt repeats the earlier cuts with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from compression.models.tensors import Tensors
from compression.pruning.scores import ImportanceScores
from compression.quantization.static_int8 import Range
from compression.schema.config import Config
from compression.schema.report.measurements import Shape
from compression.schema.report.search import SearchComparison, TablesUsed

SCORES, RATIOS, RANGES, SHAPE, ERRORS = "scores.", "ratios", "ranges.", "shape", "errors."
SEARCH, TABLES = "search", "tables"
"""Names, or prefixes of names, of the tensors in a checkpoint."""
_Kind = TypeVar("_Kind", bound=Config)


@dataclass(frozen=True)
class PruneProgress:
    """State of stepwise pruning between two steps."""

    scores: ImportanceScores  #: of the unpruned model
    ratios: tuple[float, ...]  #: the recipe's pruning ratios, in its order, with its target solved
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Static input ranges of each layer as the previous steps trained it; a new attempt does not have that model."""
    shape: Shape | None = None  #: after the cut; None: of an earlier version. To a searched or filled one no ratios lead
    errors: Mapping[str, float] = field(default_factory=dict)  #: predicted by a search, by group
    search: SearchComparison | None = None  #: of the report's row, as `tables`: a later attempt does not search again
    tables: TablesUsed | None = None

    def tensors(self) -> Tensors:
        """Return all values as named tensors, for a checkpoint."""
        ranges = {f"{RANGES}{name}": torch.tensor(found, dtype=torch.float64) for name, found in self.ranges.items()}
        scores = {f"{SCORES}{name}": found for name, found in self.scores.tensors().items()}
        scores |= {f"{ERRORS}{key}": torch.tensor(error, dtype=torch.float64) for key, error in self.errors.items()}
        for name, kept in ((SHAPE, self.shape), (SEARCH, self.search), (TABLES, self.tables)):
            if kept is not None:
                scores[name] = torch.tensor(list(kept.model_dump_json().encode()), dtype=torch.uint8)
        return {**scores, RATIOS: torch.tensor(self.ratios, dtype=torch.float64), **ranges}

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> "PruneProgress | None":
        """Rebuild from the output of `tensors`; return None if an earlier version saved a different format."""
        scores = ImportanceScores.of_tensors(_of(found, SCORES))
        if RATIOS not in found or not scores.units:
            return None
        ranges = {name: (float(range_[0]), float(range_[1])) for name, range_ in _of(found, RANGES).items()}
        errors = {key: float(error) for key, error in _of(found, ERRORS).items()}
        shape = _kept(found, SHAPE, Shape)
        search, tables = _kept(found, SEARCH, SearchComparison), _kept(found, TABLES, TablesUsed)
        return cls(scores, tuple(found[RATIOS].tolist()), ranges, shape, errors, search, tables)


def _of(found: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _kept(found: Mapping[str, Tensor], name: str, kind: type[_Kind]) -> _Kind | None:
    return kind.model_validate_json(bytes(found[name].tolist())) if name in found else None
