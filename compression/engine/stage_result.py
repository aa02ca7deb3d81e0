"""What a stage found out beside its model."""

from dataclasses import dataclass, field
from typing import Any

from compression.models.tensors import Tensors
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.points import PointCut
from compression.schema.report.preparation import Preparation
from compression.schema.report.search import SearchComparison, TablesUsed
from compression.schema.report.sensitivity import Sensitivity
from compression.schema.report.size_search import SizeSearch
from compression.schema.report.task_figure import TaskFigure


@dataclass
class StageResult:
    """What a stage found out, for its row, the report and its checkpoint. Each stage begins with a new one."""

    notes: list[str] = field(default_factory=list)
    ranges: tuple[LayerRange, ...] = ()  #: the check of the quantization ranges on the stage's model
    preparation: Preparation | None = None  #: how the baseline was tuned; None in other stages
    figures: tuple[TaskFigure, ...] = ()  #: what lm-eval measured of the stage's model
    pruning: dict[str, Any] | None = None  #: What pruning removed. Later stages keep it.
    sensitivity: dict[str, tuple[Sensitivity, ...]] = field(default_factory=dict)
    """Pruning's sensitivity curves. Later stages keep them."""
    search: SearchComparison | None = None  #: how the search among widths did beside the solver; None in other stages
    tables: TablesUsed | None = None  #: the error tables that a cut was chosen by; None in other stages
    sizes: SizeSearch | None = None  #: The sizes that a recipe with `auto` tried. Later stages keep them.
    points: tuple[PointCut, ...] = ()  #: The sizes that `prune.points` asks for, the largest first. Later stages keep them.
    units: Tensors = field(default_factory=dict)
    """Of several sizes: scores of the units that the model has, by which the next size is cut. Later stages keep them."""
    smoothed: Tensors = field(default_factory=dict)
    """By layer, the factors that smoothing divided the model's channels by, until a cut. Later stages keep them."""

    def next(self) -> "StageResult":
        """Return the result with which the next stage begins."""
        kept = {name: getattr(self, name) for name in ("pruning", "sensitivity", "sizes", "points", "units", "smoothed")}
        return StageResult(**kept)
