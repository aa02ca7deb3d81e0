"""Training steps of the engine on rows without padding: of a whole model, or of a cut one that learns from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bench.gpu_plan.shapes import SHAPES, Published
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import FeatureRequest
from compression.evaluation.validate import Validation
from compression.modalities.base import Examples, FixedRows, label_loss
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import planned_shape
from compression.planning.estimator import PlannedJob
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.quantization.frozen_int8 import freeze_int8
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Shape
from compression.schema.validation import DataFacts
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from compression.training.work import TrainingHooks

if TYPE_CHECKING:
    from compression.schema.recipe.base import Precision

Way = Literal["tune", "distill", "cut"]
EPOCHS = 2
"""Of one step each. The first gains nothing: in the second there are moments, and last good and best weights are two."""


@dataclass(frozen=True)
class Case:
    """One training or cut whose memory is planned. batch: rows of a step, or of a cut's calibration; length: tokens of a row;
    teacher: what its weights are held in.
    """

    shape: str
    way: Way
    batch: int = 8
    length: int = 512
    recompute: bool = False
    precision: "Precision" = "bfloat16"
    teacher: Literal["float32", "int8"] = "float32"

    @property
    def name(self) -> str:
        """Return the case as text, which also names its record."""
        more = [self.precision] if self.way == "tune" else [f"teacher-{self.teacher}"]
        return "-".join([self.shape, self.way, f"{self.batch}x{self.length}", *more, *["recompute"] * self.recompute])

    @property
    def published(self) -> Published:
        """Return the shape's facts."""
        return SHAPES[self.shape]

    @property
    def recipe(self) -> Recipe:
        """Return the preset `language` with the case's settings."""
        usual = preset("language", "causal-lm")
        assert usual.distill is not None, "the preset distils"
        again: Literal["on", "off"] = "on" if self.recompute else "off"
        own = {
            "batch": self.batch,
            "micro_batch": self.batch,
            "max_length": self.length,
            "checkpointing": again,
            "precision": self.precision,
        }
        teachers = usual.distill.teachers.model_copy(update={"precision": self.teacher})
        distill = usual.distill.model_copy(update={"teachers": teachers})
        changed = {"train": usual.train.model_copy(update=own), "distill": distill}
        if self.way == "cut":
            assert usual.prune is not None, "the preset prunes"
            changed = {"distill": distill, "prune": usual.prune.model_copy(update={"calibration_rows": self.batch})}
        return usual.model_copy(update=changed)

    @property
    def cut(self) -> Shape:
        """Return the shape that the recipe cuts to."""
        return cut_of(self.published, self.recipe)

    @property
    def job(self) -> PlannedJob:
        """Return the job that has this training, as forecasts see it."""
        whole, result = self.published.counted(), self.published.counted(self.cut)
        return PlannedJob(whole, result, facts_of_texts(), self.recipe, JobEvaluate())


def cut_of(published: Published, recipe: Recipe) -> Shape:
    """Return the shape that a recipe cuts a published one to."""
    assert recipe.prune is not None, "the preset prunes"
    shape = adapter_of(published.stock).shape_of(published.stock)
    return planned_shape(ARCHITECTURE_SPECS[published.kind], shape, recipe.prune)


def facts_of_texts() -> DataFacts:
    """Return the facts of some rows of text, of which many are longer than any model reads."""
    characters, rows = {"train": 4_000_000, "test": 400_000}, {"train": 400, "test": 60}
    words = {"mean_words": 700.0, "longest_words": 9000}
    return DataFacts(task="causal-lm", labels=(), rows=rows, label_counts={"train": {}}, characters=characters, **words)


@dataclass(frozen=True, kw_only=True)
class FullBatch(PackedBatch):
    """A batch without padding: its number of tokens is known without reading them."""

    @property
    def weight(self) -> int:
        """Return the number of its tokens."""
        return self.ids.numel()


class FullRows(FixedRows):
    """The rows of one step: two texts in each, a next token wanted at every position."""

    references = labelled = None

    def __init__(self, case: Case) -> None:
        self.task = task_of("causal-lm")
        self.size, self.length, self.vocabulary = case.batch, case.length, case.published.config["vocab_size"]
        self.lengths, self.labels = [case.length] * case.batch, torch.zeros(case.batch)

    def __len__(self) -> int:
        return self.size

    def batch(self, rows: list[int]) -> FullBatch:
        """Return a batch of as many rows."""
        ids = torch.arange(len(rows) * self.length).remainder(self.vocabulary).view(len(rows), self.length)
        half = torch.arange(self.length).remainder(self.length // 2).expand_as(ids)
        everywhere = torch.ones_like(ids)
        return FullBatch(ids=ids, mask=everywhere, positions=half, labels=ids, rows=torch.arange(len(rows)))

    def shuffled(self, size: int, seed: int) -> Iterator[FullBatch]:  # noqa: ARG002 (an order has no memory)
        """Yield the one batch of an epoch."""
        yield self.batch(list(range(size)))


def made(config: PretrainedConfig) -> PreTrainedModel:
    """Return a stock model with random weights in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def models_of(case: Case, whole: PreTrainedModel | None = None) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """Return the model that trains, and its teacher if it has one. whole: the case's model, if its weights are not random."""
    first = whole or made(case.published.stock)
    if case.way == "tune":
        return first, None
    config = adapter_of(first).config_at(first.config, case.cut, range(case.cut.layers))
    student, teacher = made(config), first.requires_grad_(False)
    if case.teacher == "int8":
        freeze_int8(teacher)
    assert case.recipe.quantize is not None, "the preset quantizes"
    insert_fake_quantization(student, simulation=Simulation.of(case.recipe.quantize))
    return student, teacher


def run(case: Case, student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """Train the engine's own way, one step an epoch."""
    rows, recipe = FullRows(case), case.recipe
    plan = TrainingConfig(
        name=case.way, epochs=EPOCHS, rate=1e-5, batch=case.batch, seed=0, precision=case.precision, recompute=case.recompute
    )
    loss: Callable[[Any], Tensor] = label_loss(rows.task, student)
    hooks = TrainingHooks()
    if teacher is not None:
        assert recipe.distill is not None, "the preset distils"
        known = StatesTeacher(teacher, cast(Examples, rows), FeatureRequest())
        known.store = None  # it is asked again in each step, as if its states did not fit
        settings = recipe.distill
        compared = FeatureAlignment.of(student, teacher, settings, settings.weights(), apart=False)
        objective = DistillationObjective(student, known, compared, settings, cast(Examples, rows))
        loss, hooks = objective, TrainingHooks(before_step=objective.before_step, extra=objective.parameters)
    scores = iter([Validation(score, 0.0) for score in (1.0, *[0.0] * EPOCHS)])
    for _ in train(student, plan, rows, lambda: next(scores), loss, hooks=hooks):
        pass
