"""Inserts the recipe's quantization scheme into a job's model, and updates its ranges after a stage."""

from collections.abc import Collection

from compression.engine.context import StageContext
from compression.modalities.base import Examples
from compression.modalities.sampling import shuffled_rows
from compression.models.architectures.pruning_groups import layer_number
from compression.models.linear_layers import is_linear
from compression.quantization import fake_quantize, range_check, smoothquant
from compression.quantization.calibration import calibrate
from compression.schema.recipe.quantize import Quantize


def smooth_model(context: StageContext) -> None:
    """Smooth the model if the recipe says so. The model must not be simulated yet."""
    settings, model = context.recipe.quantize, context.model
    if settings is None or settings.smoothing is None:
        return
    how, simulation = settings.smoothing, fake_quantize.Simulation.of(settings)
    smoothed = smoothquant.smooth(model, calibration_rows(context), how, context.parts, simulation)
    context.result.smoothed = smoothed
    by = "by factors that were searched for" if how == "search" else f"with α = {how:g}"
    layers = sum(1 for _ in fake_quantize.quantizable(model))
    context.notes.append(f"Smoothed {by} where it is exact, in {len(smoothed)} places of {layers} layers and tables.")


def insert_quantization(context: StageContext, eight_bits: Collection[int] = ()) -> None:
    """Simulate the recipe's scheme in the whole floating-point model, with newly calibrated ranges. eight_bits: numbers of the
    layers that have 8 bits, of a scheme of 4.
    """
    settings = context.recipe.quantize
    assert settings is not None, "only a recipe with a scheme simulates one"  # noqa: S101
    calibrate(context.model, calibration_rows(context), settings, context.parts)
    names = (name for name, layer in context.model.named_modules() if is_linear(layer) and layer_number(name) in eight_bits)
    simulation = fake_quantize.Simulation.of(settings).model_copy(update={"eight_bits": tuple(names)})
    fake_quantize.insert_fake_quantization(context.model, simulation=simulation)


def settle_ranges(context: StageContext) -> None:
    """Recalibrate static ranges and check all ranges, after a stage and before its model ships."""
    if not fake_quantize.is_simulated(context.model):
        return
    settings = context.recipe.quantize
    if settings is not None and fake_quantize.ranged_inputs(context.model, settings.scheme):
        _refit(context, settings)
    context.result.ranges = range_check.check_ranges(context.model, calibration_rows(context), context.parts)
    if (broken := range_check.describe_broken(context.result.ranges)) is not None:
        context.notes.append(broken)


def _refit(context: StageContext, settings: Quantize) -> None:
    """Calibrate again after training, which adapted weights to the old ranges; keep what is better on validation."""
    trained, before = fake_quantize.input_ranges(context.model), context.validate()
    calibrate(context.model, calibration_rows(context), settings, context.parts)
    after = context.validate()
    if after > before:
        change = f"validation {context.task.metric} {before} → {after}"
        loss = f"loss {-before.negative_loss:.4g} → {-after.negative_loss:.4g}"
        context.notes.append(f"Ranges were calibrated again on the model as it is now: {change}, {loss}.")
    else:
        fake_quantize.set_input_ranges(context.model, trained)


def calibration_rows(context: StageContext, train: Examples | None = None) -> Examples:
    """Sample the recipe's number of calibration rows from train, never from test. train: as another model reads it."""
    settings = context.recipe.quantize or Quantize()
    rows = context.rows["train"] if train is None else train
    return shuffled_rows(rows, settings.calibration_rows, context.recipe.train.seed)
