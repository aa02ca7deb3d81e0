"""Cut tokens, layers, channels, heads and feed-forward units, at once or in steps, and let the model recover in between."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import apply_cut
from compression.engine.stages.latency_target import ratio_for_latency
from compression.engine.stages.recover import phases, recover
from compression.engine.stages.sensitivity_curves import curves
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.validate import Validation
from compression.modalities.modality import InputPruner
from compression.modalities.sampling import first_tokens, shuffled_rows
from compression.models.adapters.registry import adapter_of, is_decoder
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import (
    Count,
    Ratios,
    deepest_shape,
    parameters_at,
    planned,
    shape_at,
    steps_to,
    table_rows,
    width_of,
)
from compression.pruning.decoder_scores import DecoderScores
from compression.pruning.scores import PARTS, EncoderScores, score_units
from compression.quantization.fake_quantize import input_ranges, set_input_ranges
from compression.quantization.precision import gradient_precision
from compression.quantization.smoothquant import undone
from compression.schema.events import Event
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

ALWAYS_TOLD = ("hidden", "heads", "ffn")
"""Axes that a report speaks of also where they were left alone."""
RATIOS, RANGES = "ratios", "ranges."
"""Under these names a save keeps the ratios that a target came to, and the static ranges of each layer."""


def prune(context: StageContext) -> Iterator[Event]:
    """Choose by importance, slice into a smaller stock model, recover; as often as there are steps. Raises UnsupportedShape.

    Scores are taken once, of the whole model, and every cut chooses by what is left of them: so each goes on from the one
    before, and an attempt that goes on from a save in the midst of a step makes the earlier cuts again without training.
    """
    settings = context.recipe.prune
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    family, kind = adapter_of(context.model), ARCHITECTURE_SPECS[context.model.config.model_type]
    before = family.shape_of(context.model.config)
    yield from context.tracker.mark("pruned", "cut", done=False)
    whole = context.validate()
    trainings = phases(settings)
    going_on = _step_of_save(context, [phase for phase, _ in trainings])
    kept_before = context.checkpointer.beside() if context.checkpointer and going_on else {}
    scores = _scores(context, settings, kept_before)
    beside = {f"scores.{name}": found for name, found in scores.tensors().items()}
    if settings.sensitivity:
        context.sensitivity = curves(context, scores, settings)
    reduce_vocabulary(context)
    start = family.shape_of(context.model.config)
    ratios, after = yield from _solved(context, settings, before, kept_before)
    beside[RATIOS] = _as_tensor(ratios.values())
    shapes = steps_to(kind, start, settings, ratios, after)
    for step, ((phase, epochs), to) in enumerate(zip(trainings, shapes, strict=True), 1):
        kept = scores.choose(family, to)
        if step > max(going_on, 1):
            whole = context.validate()
        uncut = context.model
        context.model, scores, context.smoothed = apply_cut(context, uncut, kept), scores.after(kept), {}
        if step < going_on:
            continue  # its training is in the save that is taken up
        if step == going_on:
            set_input_ranges(context.model, _ranges(kept_before))
        now = context.validate()
        which = f"Cut {step} of {settings.steps} alone" if settings.steps > 1 else "The cut alone"
        context.notes.append(f"{which}: validation {context.task.metric} {whole} → {now}, before any training.")
        if settings.reconstruct and step > going_on:
            _reconstruct(context, settings, uncut, kept, now)
        yield from context.tracker.mark("pruned", "cut", done=True)
        if settings.recovery is not None and epochs:
            # Static ranges are of the model as the steps before have trained it, which a new attempt does not have.
            ranges = {f"{RANGES}{name}": _as_tensor(found) for name, found in input_ranges(context.model).items()}
            yield from recover(context, settings.recovery, step, phase, epochs, beside | ranges)
    context.pruning = taken(before, after, settings, ratios)


def _reconstruct(context: StageContext, settings: Prune, uncut: PreTrainedModel, kept: PruningPlan, before: Validation) -> None:
    """Cut again, and solve what is left on calibration rows. before: what the cut alone is worth."""
    rows = first_tokens(shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed))
    context.model = apply_cut(context, uncut, kept, rows)
    now = context.validate()
    change = f"validation {context.task.metric} {before} → {now}"
    context.notes.append(f"What the cut left, solved by least squares on {len(rows)} rows: {change}, still without training.")


def aimed(model: PreTrainedModel, settings: Prune, pruner: InputPruner | None) -> Shape:
    """Say which shape the recipe comes to, before anything is done; where only measuring tells, the deepest that it may be.

    Raises UnsupportedShape.
    """
    shape, tokens = adapter_of(model).shape_of(model.config), len(pruner.kept) if pruner is not None else None
    kind = ARCHITECTURE_SPECS[model.config.model_type]
    found = planned(kind, shape, settings, count=counter(model), vocabulary=tokens)[1]
    return deepest_shape(kind, found, settings) if settings.target_latency is not None else found


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
    """Say for each axis what it had, what it has, what was asked and what was taken.

    Of a target, `asked` is the ratio that it came to; of the vocabulary it is null where the texts alone decide.
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


def _scores(context: StageContext, settings: Prune, kept: dict[str, Tensor]) -> EncoderScores | DecoderScores:
    """Take the scores out of an earlier attempt's save, or take them now."""
    known = {name.removeprefix("scores."): found for name, found in kept.items() if name.startswith("scores.")}
    # A save of an earlier version may lack some; they are taken again, of the same model.
    if known and (is_decoder(context.model) or all(f"{part}.0" in known for part in PARTS)):
        return (DecoderScores if is_decoder(context.model) else EncoderScores).of_tensors(known)
    layers = "layers" in settings.axes or settings.sensitivity
    rows, seed = context.rows["train"], context.recipe.train.seed
    # Taylor's have a backward pass, whose gradients are the recipe's to round, as in training.
    with undone(context.model, context.smoothed), gradient_precision(context.recipe.train.precision):
        return score_units(context.model, settings, rows, seed, context.parts, layers=layers)


def _solved(
    context: StageContext, settings: Prune, before: Shape, kept: dict[str, Tensor]
) -> Generator[Event, None, tuple[Ratios, Shape]]:
    """Return the ratios and the shape that the recipe comes to, its target solved. before: with the whole vocabulary."""
    family = adapter_of(context.model)
    here = family.shape_of(context.model.config)
    if RATIOS in kept:
        ratios: Ratios = dict(zip(settings.ratios, kept[RATIOS].tolist(), strict=True))
        return ratios, shape_at(ARCHITECTURE_SPECS[context.model.config.model_type], here, settings, ratios)
    if settings.target_latency is not None:
        found = yield from ratio_for_latency(context, settings, settings.target_latency)
        return found
    return planned(
        ARCHITECTURE_SPECS[context.model.config.model_type],
        before,
        settings,
        count=counter(context.model),
        vocabulary=here.vocabulary,
    )


def _step_of_save(context: StageContext, trainings: list[str]) -> int:
    """Say in which step the earlier attempt was saved, from 1; 0 where it was in none."""
    checkpointer = context.checkpointer
    return next((step for step, phase in enumerate(trainings, 1) if checkpointer and checkpointer.is_at("pruned", phase)), 0)


def _ranges(kept: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    return {
        name.removeprefix(RANGES): (found[0].item(), found[1].item()) for name, found in kept.items() if name.startswith(RANGES)
    }


def _as_tensor(numbers: Iterable[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)
