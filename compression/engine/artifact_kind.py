"""What a job's model can be shipped as, and what removes its inputs, as known before any training."""

from transformers import PreTrainedModel

from compression.engine.job_data import JobData
from compression.engine.job_models import ModelSource
from compression.export.exporter import exporter_of
from compression.modalities.modality import InputPruner
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Recipe


def artifact_kind(model: PreTrainedModel, recipe: Recipe, notes: list[str]) -> Kind:
    """Return the kind of a model's artifacts; note if it is not the primary one, raise InvalidSpec if a target needs that."""
    primary, other, *_ = ARTIFACT_FORMATS
    if (unknown := exporter_of(primary).hinders(model)) is None:
        return primary
    notes.append(f"There is no ONNX file, and speeds are not measured: {unknown}.")
    if recipe.prune is not None and recipe.prune.target_latency is not None:
        cause = f"nothing but an ONNX file is timed, and none can be written: {unknown}"
        raise InvalidSpec(cause, param="recipe.prune.target_latency", remedy="Aim at parameters: target_params.")
    return other


def input_pruner_of(data: JobData, own: ModelSource) -> InputPruner | None:
    """Return what fits the vocabulary to a job's texts; None if the recipe does not cut it."""
    prune = data.spec.recipe.prune
    if prune is None or not prune.vocabulary_ratio:
        return None
    place = data.scratch / f"preprocessor-{data.name}".rstrip("-")
    return data.modality.input_pruner(own.folder, own.config, data.dataset, data.reading, place, prune.vocabulary_ratio)
