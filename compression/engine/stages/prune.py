"""Cut tokens, layers, channels, heads and feed-forward units, at once or in steps, and let the model recover in between."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import apply_cut
from compression.engine.stages.latency_target import ratio_for_latency
from compression.engine.stages.recover import phases as trainings_of
from compression.engine.stages.recover import precompute, recover
from compression.engine.stages.registry import ExpectedWork, StageRunner
from compression.engine.stages.sensitivity_curves import curves
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.validate import Validation
from compression.modalities.modality import InputPruner
from compression.modalities.sampling import first_tokens, shuffled_rows
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import width_of
from compression.models.architectures.shapes import (
    Count,
    Ratios,
    deepest_shape,
    parameters_at,
    planned,
    shape_at,
    steps_to,
    table_rows,
)
from compression.planning.estimator import PROBES
from compression.pruning.prune_progress import PruneProgress
from compression.pruning.scores import ImportanceScores, score_units
from compression.quantization.fake_quantize import input_ranges, set_input_ranges
from compression.quantization.precision import gradient_precision
from compression.quantization.smoothquant import undone
from compression.schema.events import Event
from compression.schema.job_spec import Spec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

ALWAYS_TOLD = ("hidden", "heads", "ffn")
"""Axes that a report speaks of also where they were left alone."""


def prune(context: StageContext) -> Iterator[Event]:
    """Choose by importance, slice into a smaller stock model, recover; as often as there are steps. Raises UnsupportedShape.

    Scores are taken once, of the whole model, and every cut chooses by what is left of them: so each goes on from the one
    before, and an attempt that goes on from a save in the midst of a step makes the earlier cuts again without training.
    """
    settings = context.recipe.prune
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    family, kind = adapter_of(context.model), ARCHITECTURE_SPECS[context.model.config.model_type]
    before = family.shape_of(context.model.config)
    yield from context.tracker.emit_boundary("cut", done=False)
    whole = context.validate()
    trainings = trainings_of(settings)
    going_on, saved = _saved(context, [phase for phase, _ in trainings])
    scores = saved.scores if saved is not None else _scores(context, settings)
    if settings.sensitivity:
        context.sensitivity = curves(context, scores, settings)
    reduce_vocabulary(context)
    start = family.shape_of(context.model.config)
    ratios, after = yield from _solved(context, settings, before, saved)
    progress = PruneProgress(scores, tuple(ratios.values()))
    shapes = steps_to(kind, start, settings, ratios, after)
    for step, ((phase, epochs), to) in enumerate(zip(trainings, shapes, strict=True), 1):
        plan = scores.choose(family, to)
        if step > max(going_on, 1):
            whole = context.validate()
        uncut = context.model
        context.model, scores, context.smoothed = apply_cut(context, uncut, plan), scores.after(plan), {}
        if step < going_on:
            continue  # its training is in the save that is taken up
        if step == going_on and saved is not None:
            set_input_ranges(context.model, dict(saved.ranges))
        now = context.validate()
        which = f"Cut {step} of {settings.steps} alone" if settings.steps > 1 else "The cut alone"
        context.notes.append(f"{which}: validation {context.task.metric} {whole} → {now}, before any training.")
        if settings.reconstruct and step > going_on:
            _reconstruct(context, settings, uncut, plan, now)
        yield from context.tracker.emit_boundary("cut", done=True)
        if settings.recovery is not None and epochs:
            beside = replace(progress, ranges=input_ranges(context.model)).tensors()
            yield from recover(context, settings.recovery, step, phase, epochs, beside)
    context.pruning = taken(before, after, settings, ratios)


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the cut, with the measurements that a target takes, and each step's recovery."""
    settings = expected.recipe.prune
    assert settings is not None, "the job asks for stages that the recipe has"  # noqa: S101
    measuring = PROBES * expected.shipping / 2 if settings.target_latency is not None else 0.0
    yield "cut", 2.0 + measuring
    for name, epochs in trainings_of(settings):
        if expected.recipe.recovers_by_teacher and epochs:
            yield precompute(name), expected.train / 3
        yield name, epochs * expected.train * 0.7


def inputs(spec: Spec, base: Path) -> dict[str, Any]:  # noqa: ARG001
    """Return what a recovery by the teacher's outputs reads of distillation, which comes after it."""
    if not spec.recipe.recovers_by_teacher:
        return {}
    asked = spec.recipe.distill or Distill()
    found = {"temperature": asked.temperature, "precision": asked.teachers.precision, "spill_gib": asked.spill_gib}
    return {"answers": found}


STAGE = StageRunner(prune, phases, inputs, cuts=True)


def _reconstruct(context: StageContext, settings: Prune, uncut: PreTrainedModel, plan: PruningPlan, before: Validation) -> None:
    """Cut again, and solve what is left on calibration rows. before: what the cut alone is worth."""
    rows = first_tokens(shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed))
    context.model = apply_cut(context, uncut, plan, rows)
    now = context.validate()
    change = f"validation {context.task.metric} {before} → {now}"
    context.notes.append(f"What the cut left, solved by least squares on {len(rows)} rows: {change}, still without training.")


def aimed(model: PreTrainedModel, settings: Prune, pruner: InputPruner | None) -> Shape:
    """Return the shape that the recipe comes to, before anything is done; if only measuring tells, the deepest that it may be.

    Raises UnsupportedShape.
    """
    shape = plan_shape(model, settings, vocabulary=len(pruner.kept) if pruner is not None else None)[1]
    kind = ARCHITECTURE_SPECS[model.config.model_type]
    return deepest_shape(kind, shape, settings) if settings.target_latency is not None else shape


def plan_shape(
    model: PreTrainedModel, settings: Prune, before: Shape | None = None, vocabulary: int | None = None
) -> tuple[Ratios, Shape]:
    """Return the ratios that the recipe comes to for a model, and the shape. Raises UnsupportedShape.

    before: the shape to cut, if it is not the model's own. vocabulary: the tokens that stay, if that is known.
    """
    shape = before or adapter_of(model).shape_of(model.config)
    kind = ARCHITECTURE_SPECS[model.config.model_type]
    return planned(kind, shape, settings, count=counter(model), vocabulary=vocabulary)


def counter(model: PreTrainedModel) -> Count:
    """Return what counts the parameters of models like this one, its head included, by their shape."""
    family, head = adapter_of(model), adapter_of(model).head(model)
    known, kind = family.shape_of(model.config), ARCHITECTURE_SPECS[model.config.model_type]
    rows = table_rows(family.parameters_of(model), known)
    outputs, dense = head.out.out_features if head.out is not None else None, head.dense is not None
    if head.out is not None and head.out.weight is model.get_input_embeddings().weight:
        outputs = None  # a tied output layer is its table
    biases = family.biases(model.config)
    return lambda shape: parameters_at(kind, shape, rows=rows, outputs=outputs, dense=dense, biases=biases).total


def taken(before: Shape, after: Shape, settings: Prune, ratios: Ratios) -> dict[str, Any]:
    """Return for each axis what it had, what it has, what was asked and what was taken.

    Of a target, `asked` is the ratio that it came to; of the vocabulary it is null if the texts alone decide.
    """

    def one(axis: str, asked: float | None) -> dict[str, Any]:
        had, has = width_of(before, axis), width_of(after, axis)
        return {axis: {"before": had, "after": has, "asked": asked, "taken": (had - has) / had}}

    found: dict[str, Any] = {}
    for axis, ratio in ratios.items():
        if axis in ALWAYS_TOLD or axis in settings.axes:
            found |= one(axis, ratio)
    found["ffn"]["multiple"] = settings.multiple
    if "vocabulary" in settings.axes:
        found |= one("vocabulary", settings.vocabulary_ratio if settings.vocabulary_ratio < 1 else None)
    return found


def _scores(context: StageContext, settings: Prune) -> ImportanceScores:
    """Score the model's units as they are without smoothing."""
    layers = "layers" in settings.axes or settings.sensitivity
    rows, seed = context.rows["train"], context.recipe.train.seed
    # Taylor's have a backward pass, whose gradients are the recipe's to round, as in training.
    with undone(context.model, context.smoothed), gradient_precision(context.recipe.train.precision):
        return score_units(context.model, settings, rows, seed, context.parts, layers=layers)


def _solved(
    context: StageContext, settings: Prune, before: Shape, saved: PruneProgress | None
) -> Generator[Event, None, tuple[Ratios, Shape]]:
    """Return the ratios and the shape that the recipe comes to, its target solved. before: with the whole vocabulary."""
    here = adapter_of(context.model).shape_of(context.model.config)
    if saved is not None:
        ratios: Ratios = dict(zip(settings.ratios, saved.ratios, strict=True))
        return ratios, shape_at(ARCHITECTURE_SPECS[context.model.config.model_type], here, settings, ratios)
    if settings.target_latency is not None:
        found = yield from ratio_for_latency(context, settings, settings.target_latency)
        return found
    return plan_shape(context.model, settings, before, here.vocabulary)


def _saved(context: StageContext, trainings: list[str]) -> tuple[int, PruneProgress | None]:
    """Return in which step the earlier attempt was saved, from 1, and what it saved; 0 and None if it was in none."""
    checkpointer = context.checkpointer
    if checkpointer is None:
        return 0, None
    step = next((step for step, phase in enumerate(trainings, 1) if checkpointer.is_at(phase)), 0)
    saved = PruneProgress.of_tensors(checkpointer.beside()) if step else None
    # A save of an earlier version may lack some scores: they are taken again, of the same model.
    lacks = saved is None or not adapter_of(context.model).observed(context.model).keys() <= saved.scores.units.keys()
    return step, None if lacks else saved
