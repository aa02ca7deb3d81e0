"""Builds a stage's row and writes the scored splits, for jobs in memory and jobs on disk alike."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from compression.engine.reporting.notes import with_notes
from compression.engine.shipping import ShippedArtifact
from compression.engine.stage_result import StageResult
from compression.modalities.modality import Dataset
from compression.models.adapters.registry import adapter_of
from compression.schema.recipe.base import Split
from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Row, Uploaded
from compression.schema.report.ratios import ratios
from compression.schema.stages import BASELINE, Stage
from compression.system import durable_files

SCORED: tuple[Split, ...] = ("validation", "test")


def write_scored_rows(paths: Mapping[Split, Path], dataset: Dataset, some: Mapping[Split, Sequence[int]]) -> None:
    """Write the scored splits for the measuring process. some: by split, the numbers of the scored rows, if not all are."""
    for split, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = dataset.judged(split)
        if split in some:
            rows = [rows[number] for number in some[split]]
        durable_files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def stage_row(
    shipped: ShippedArtifact,
    model: PreTrainedModel,
    rows: Sequence[Row],
    draws: Mapping[Stage, SplitDraws],
    *,
    sent: Uploaded,
    seconds: float,
    result: StageResult,
) -> Row:
    """Build a stage's row, without a verdict, and compare it with the baseline's.

    model: its weights are not read. rows, draws: of earlier stages. sent: the uploaded model. If the baseline was measured
    before validation was scored, all rows are judged on test, and this row omits its validation score.
    """
    family, first = adapter_of(model), rows[0] if rows else None
    parameters = family.parameters_of(model)
    validation = shipped.validation if first is None or first.validation is not None else None
    after = (parameters, shipped.size, shipped.score)
    found = ratios(
        (first.parameters, first.size, first.score) if first else after,
        after,
        shipped.latency,
        sent,
        validation=(first.validation if first else validation, validation),
        draws=(draws.get(BASELINE, NO_DRAWS) if first else shipped.draws, shipped.draws),
    )
    row = Row(
        stage=shipped.artifact.stage,
        artifact=shipped.artifact.name,
        shape=family.shape_of(model.config),
        parameters=parameters,
        size=shipped.size,
        latency=shipped.latency,
        score=shipped.score,
        validation=validation,
        preparation=result.preparation,
        flops=shipped.flops,
        peak_memory_bytes=shipped.peak_memory_bytes,
        ratios=found,
        seconds=seconds,
        ranges=result.ranges,
        notes=tuple(result.notes),
        lm_eval=result.figures,
    )
    return with_notes(row, rows[-1] if rows else None)
