"""Resolves a job's other models: the base, and the student and the teachers that the user names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from compression.engine.job_data import UNPACKED, JobData
from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.modality import Dataset, InputPruner, Preprocessor
from compression.modalities.registry import modality_of
from compression.models import loading, sanitized_folder
from compression.models.adapters.registry import adapter_of
from compression.planning import distillation_rules as rules
from compression.schema.errors import CompressionError, InvalidSpec, LabelMismatch
from compression.schema.recipe.base import Split
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape
from compression.schema.tasks import TASKS

STUDENT = "models.student"


@dataclass(frozen=True)
class ModelSource:
    """A model in a folder. param: its name in the job. positions: its maximum number of tokens. aligned: whether it tokenizes
    train's texts as the student does.
    """

    param: str
    folder: Path
    reading: Preprocessor
    shape: Shape
    positions: int
    config: PretrainedConfig
    aligned: bool = True

    @classmethod
    def of(cls, param: str, folder: Path, reading: Preprocessor, model: PreTrainedModel) -> "ModelSource":
        """Return the source of an open model."""
        family, config = adapter_of(model), model.config
        return cls(param, folder, reading, family.shape_of(config), family.max_positions(config), config)


@dataclass(frozen=True)
class JobModels:
    """The job's models by folder, and its data, which each model tokenizes in its own way. input_pruner: of a cut vocabulary;
    models that share the base's preprocessor are then opened with its inputs alone.
    """

    base: ModelSource
    dataset: Dataset
    task: TaskAdapter
    student: ModelSource | None = None
    teachers: tuple[ModelSource, ...] = ()
    input_pruner: InputPruner | None = None

    def opened(self, who: ModelSource, seed: int) -> PreTrainedModel:
        """Open a model for the task, outputs in the order of the data's labels; a head that it lacks is drawn with `seed`."""
        model = loading.load_model(who.folder, self.dataset.labels, self.task.name, seed=seed)
        model = loading.in_order(model, self.dataset.labels)
        return self.input_pruner.model(model) if self.input_pruner is not None and who.aligned else model

    def trimmed(self, pruner: InputPruner) -> "JobModels":
        """Return the models with the base's new preprocessor, for each aligned model that it fits."""

        def other(who: ModelSource) -> ModelSource:
            aligned = who.aligned and pruner.fits(who.config)
            reading = pruner.preprocessor(who.reading) if aligned else who.reading
            return replace(who, aligned=aligned, reading=reading)

        return replace(self, base=other(self.base), teachers=tuple(map(other, self.teachers)), input_pruner=pruner)

    def read(self, who: ModelSource, split: Split, made: Sequence[Any] = ()) -> Examples:
        """Encode a split for a model, followed by the rows that augmentation made from it."""
        rows = who.reading.encode(self.dataset, split, self.task)
        return who.reading.with_made(rows, made, self.task) if made else rows


def with_views(rows: Mapping[Split, Examples], task: TaskAdapter, recipe: Recipe) -> dict[Split, Examples]:
    """Return the splits, of which train is shown differently each time if the recipe says so."""
    views, seed = recipe.train.views, recipe.train.seed
    return {**rows, "train": modality_of(task.name).train_rows(rows["train"], views, seed)}


def adapted_folder(folder: Path, dataset: Dataset, output: Path, name: str, notes: list[str], like: Path | None = None) -> Path:
    """Return a model's folder with a preprocessor that suits the rows; if it was changed, note how. name: the model's."""
    modality, target = modality_of(dataset.task), output / "scratch" / f"apart-{name}"
    found, note = modality.adapted(folder, dataset, dataset.task, target, name, like=like)
    notes += [] if note is None else [note]
    return found


def open_job_models(data: JobData, own: ModelSource, planned: Shape, notes: list[str]) -> JobModels:
    """Open the models that a job names, and refuse impossible combinations before any training. own: the base model; planned:
    its shape after pruning; notes: of the baseline's row, which may get one. Raises the errors of opening a model, with `param`
    naming the model, LabelMismatch and InvalidSpec.
    """
    spec, models, unpacked = data.spec, JobModels(own, data.dataset, data.task), data.output / UNPACKED
    recipe, student = spec.recipe, None
    if spec.student is not None:
        sent = sanitized_folder.sanitized_folder(data.base / spec.student, unpacked / "student", data.dataset.labels)
        student = adapted_folder(sent, data.dataset, data.output, STUDENT, notes, like=own.folder)
    teachers = [
        sanitized_folder.sanitized_folder(data.base / one, unpacked / f"teacher-{number}", data.dataset.labels)
        for number, one in enumerate(spec.teachers)
    ]
    rules.check_models(recipe, student=student is not None, teachers=len(teachers))
    if student is not None:
        pupil = _looked_at(models, student, STUDENT, recipe)
        models = replace(models, student=pupil, base=_aligned(models, own, pupil))
    reader = models.student or own
    found = []
    for number, folder in enumerate(teachers):
        teacher = _looked_at(models, folder, f"models.teachers.{number}", recipe)
        found.append(_aligned(models, teacher, reader))
    models = replace(models, teachers=tuple(found))
    _check(models, recipe, models.student.shape if models.student else planned)
    if models.student is not None and 0 < models.student.positions < data.evaluate.length:
        raise InvalidSpec(f"the student takes at most {models.student.positions} tokens", param="evaluate.length")
    return models


def _looked_at(models: JobModels, folder: Path, param: str, recipe: Recipe) -> ModelSource:
    dataset, task = models.dataset, models.task
    try:
        config = loading.read_config(folder)
        if param != STUDENT:
            architecture = next(iter(config.get("architectures") or ()), config["model_type"])
            rules.check_teacher(None, str(architecture), task.name, (), param)
        model = loading.load_model(folder, dataset.labels, task.name, seed=recipe.train.seed)
        reading = modality_of(task.name).preprocessor(folder, model.config, recipe.train.max_length)
    except CompressionError as problem:
        remedy = None
        if isinstance(problem, LabelMismatch) and param != STUDENT:
            remedy = "Name a teacher with exactly the data's labels (its config's id2label)."
        raise type(problem)(f"{param}: {problem.cause}", param=param, remedy=remedy or problem.remedy_text) from problem
    return ModelSource.of(param, folder, reading, model)


def _aligned(models: JobModels, who: ModelSource, reader: ModelSource) -> ModelSource:
    """Set `aligned` if a model tokenizes train's rows as `reader` does. Tokens are compared, not files."""
    mine, other = (models.read(each, "train") for each in (who, reader))
    return replace(who, aligned=mine.cut_like(other))


def _check(models: JobModels, recipe: Recipe, student: Shape) -> None:
    settings = recipe.distill
    if settings is None:
        return
    seeds = (models.base,) if settings.teachers.seeds else ()
    if models.task.packed is not None:
        wide = (models.student or models.base).config.vocab_size
        rules.check_vocabularies({who.param: who.config.vocab_size for who in (*seeds, *models.teachers)}, wide)
    for who in (*seeds, *models.teachers):
        if not who.aligned and TASKS[models.task.name].per_token:
            raise InvalidSpec(
                f"{who.param} and the student have different tokens, and the outputs of {models.task.name} are per token",
                param=who.param if who in models.teachers else STUDENT,
                remedy="Name models with the same tokenizer.",
            )
    if settings.general is not None and not models.base.aligned:
        raise InvalidSpec(
            "the student and its teacher in the general phase have different tokens",
            param="recipe.distill.general",
            remedy="Set distill.general to null, or name a student with the base model's tokenizer.",
        )
    guides = [who for who in (*seeds, *models.teachers) if who.aligned]
    if not guides and rules.compares_states(settings):
        term = next(term for term in settings.weights() if term in ("hidden", "attention", "embedding"))
        raise InvalidSpec(
            "no teacher has the student's tokens, so only their outputs can be compared",
            param=f"recipe.distill.{term}",
            remedy="Set distill.hidden, attention and embedding to 0, or name a teacher with the student's tokenizer.",
        )
    for who in {who.param: who for who in (*guides, *((models.base,) if settings.general is not None else ()))}.values():
        rules.check_feature_terms(settings, student, who.shape)
