"""Builds a stage's row with its notes, for jobs in memory and jobs on disk alike."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from compression.engine.shipping import ShippedArtifact
from compression.engine.stage_result import StageResult
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.shapes import allowed
from compression.planning.estimator import artifact_bytes
from compression.quantization.fake_quantize import layers_in_eight_bits
from compression.schema.artifact_formats import ONNX
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Latency, Ratios, Row, Score, Uploaded
from compression.schema.report.ratios import ratios
from compression.schema.stages import BASELINE, DISTILLED, POINTS, PRUNED, Stage

BUSY = 0.5  #: share of turns of timing that other processes disturbed, from which the row says so


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
        shape=family.shape_of(model.config).model_copy(update={"eight_bits": layers_in_eight_bits(model)}),
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
        gate=shipped.artifact.gate,
        ranges=result.ranges,
        notes=(*result.notes, *family.form_notes(model)),
        folding=family.folding(model.config) if shipped.artifact.kind == ONNX.name else None,
        lm_eval=result.figures,
        search=result.search,
        tables=result.tables,
    )
    return with_notes(row, rows[-1] if rows else None)


def bytes_note(row: Row, baseline: Row, recipe: Recipe) -> str | None:
    """Return how far a file is above prune.target_bytes, which counts weights before there is a file; None if it is not, or if
    its stage is none that the target is of.
    """
    prune = recipe.prune
    if prune is None or prune.target_bytes is None:
        return None
    most = allowed(prune.target_bytes, artifact_bytes(baseline.parameters, recipe.quantize))
    smallest = (PRUNED, DISTILLED) if prune.points == 1 else (POINTS[prune.points - 2],)
    if row.stage not in smallest or row.size.bytes <= most:
        return None
    over = row.size.bytes / most - 1
    return (
        f"The file has {row.size.bytes:,} bytes, {over:.1%} more than the {most:,} that prune.target_bytes allows: it counts "
        "weights as forecasts do, and neither a graph nor what a format stores twice or wider."
    )


def with_notes(row: Row, previous: Row | None) -> Row:
    """Return the row with added notes on what is worse than before. previous: the previous stage's row."""
    notes = row_notes(row.ratios, row.judged_score, previous)
    tested = row.score
    if isinstance(tested, Score) and tested.rows_changed_by_batching:
        notes.append(f"{tested.rows_changed_by_batching} of {tested.rows} answers depend on who shares the batch.")
    sampled = [
        f"{score.counted} rows of {split}"
        for split, score in (("validation", row.validation), ("test", row.score))
        if isinstance(score, Score) and score.split_rows is not None
    ]
    if sampled:
        notes.append(
            f"Scored on {' and '.join(sampled)}, drawn at random: all take longer than training, and than ten minutes."
        )
    if isinstance(tested, Score) and tested.not_on_card is not None:
        notes.append(f"Scored on the CPU and not on the worker's GPU: {tested.not_on_card}.")
    if isinstance(row.latency, Latency) and not row.latency.exclusive:
        notes.append("Another job may have been timed on this host at once: its turn was not over within the time of waiting.")
    if isinstance(row.latency, Latency) and (row.latency.interrupted or 0.0) > BUSY:
        notes.append(
            f"The machine was busy: other processes ran in the models' place in {row.latency.interrupted:.0%} of the turns of "
            "timing. Times and speed-up are less exact than on a machine of its own."
        )
    return row.model_copy(update={"notes": (*row.notes, *notes)})


def row_notes(found: Ratios, score: object, previous: Row | None) -> list[str]:
    """Return notes on what is worse than before in a stage's artifact. score: on the split that choices are made on."""
    notes = []
    if isinstance(score, Score):
        before = previous.judged_score if previous is not None else None
        if previous is not None and isinstance(before, Score) and score.worth < before.worth:
            noise = " (within one standard error)" if before.worth - score.worth <= before.worth_error else ""
            turned = "rose" if score.lower_is_better else "fell"
            notes.append(
                f"{found.judged_on.capitalize()} {score.metric} {turned} from {before.value:.4f} ({previous.stage}) to "
                f"{score.value:.4f}{noise}."
            )
        if score.above_chance <= 0:
            notes.append(f"The score is no better than chance ({score.chance:.4f}: what knowing no input would score).")
    if previous is not None and found.speed_up is not None and found.speed_up < 1:
        notes.append(f"It is slower than the baseline: {1 / found.speed_up:.2f} times its latency.")
    if previous is not None and found.size_reduction < 0:
        notes.append("It is larger than the baseline.")
    return notes
