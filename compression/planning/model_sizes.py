"""Counts the sizes of a model that was checked but not opened, with the head that a dataset needs. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.models.architectures.shapes import parameters_at, table_rows
from compression.planning.counted import Counted
from compression.planning.network_rules import counted_parameters
from compression.planning.search.costs import Sizes, sizes_of
from compression.planning.sensitivity import curve_axes
from compression.schema.recipe.base import Task
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Shape
from compression.schema.solved_search import ParameterFacts
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts, ModelFacts


def has_head(model: ModelFacts, task: Task) -> bool:
    """Return whether a model comes with the head that a task needs."""
    return heads.of_architecture(model.architecture) == heads.of_task(task)


@dataclass(frozen=True)
class ModelSizes:
    """What counts a model for a dataset. outputs: that the task needs; quantize, tokens: as of `sizes_of`."""

    data: DataFacts
    outputs: int
    quantize: Quantize | None
    tokens: int

    def of(self, model: ModelFacts) -> Sizes:
        """Return what counts a model's sizes at any shape."""
        found = sizes_of(self._facts(model), _family(model), model.network, self.quantize, self.tokens)
        if (network := model.network) is None:
            return found
        outputs = None if has_head(model, self.data.task) else self.outputs
        return replace(found, parts=lambda shape: counted_parameters(network, shape, outputs))

    def counted(self, model: ModelFacts, shape: Shape) -> Counted:
        """Return a model at a shape, as a forecast reads it."""
        spoken, family = self._spoken(model), _family(model)
        tied, curves = TASKS[self.data.task].generates and not spoken, len(curve_axes(family, shape))
        return Counted(shape, self.of(model).parts(shape), tied, spoken, model.network, family.recomputes, curves)

    def whole(self, models: Sequence[ModelFacts]) -> list[Counted]:
        """Return models as they are."""
        return [self.counted(each, each.shape) for each in models]

    def _facts(self, model: ModelFacts) -> ParameterFacts:
        if model.network is not None:
            return ParameterFacts()
        outputs: int | None = self.outputs
        head = heads.of_task(self.data.task)
        if TASKS[self.data.task].generates:
            outputs = model.shape.vocabulary if self._spoken(model) else None
        return ParameterFacts(
            rows=table_rows(model.parameters, model.shape),
            outputs=outputs,
            dense=head == heads.CLASSIFIER,
            biases=model.biases,
            biased=head == heads.READER,
        )

    def _spoken(self, model: ModelFacts) -> int:
        """Count the elements of a language model's output layer; 0 if it is its table, and for other tasks."""
        if not TASKS[self.data.task].generates:
            return 0
        rows = table_rows(model.parameters, model.shape)
        tied = parameters_at(_family(model), model.shape, rows=rows, outputs=0, dense=False, biases=model.biases)
        layer = model.shape.vocabulary * model.shape.hidden
        return layer if tied.total + layer <= model.parameters.total else 0  # a classifier's head adds elements, but fewer


def _family(model: ModelFacts) -> ArchitectureSpec:
    return ARCHITECTURE_SPECS[model.family]
