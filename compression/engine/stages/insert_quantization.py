"""Inserts the recipe's quantization scheme into a job's model, and updates its ranges after a stage."""

from compression.engine.context import StageContext
from compression.modalities.base import Examples
from compression.modalities.sampling import shuffled_rows
from compression.quantization import range_check, smoothquant
from compression.quantization.calibration import calibrate
from compression.quantization.fake_quantize import (
    Simulation,
    input_ranges,
    insert_fake_quantization,
    is_simulated,
    quantizable,
    set_input_ranges,
)
from compression.schema.recipe.quantize import Quantize
from compression.schema.schemes import SCHEMES


def smooth_model(context: StageContext) -> None:
    """Smooth the model if the recipe says so. The model must not be simulated yet."""
    settings, model = context.recipe.quantize, context.model
    if settings is None or settings.smoothing is None:
        return
    how = settings.smoothing
    context.result.smoothed = smoothquant.smooth(model, calibration_rows(context), how, context.parts, Simulation.of(settings))
    by = "by factors that were searched for" if how == "search" else f"with α = {how:g}"
    layers = sum(1 for _ in quantizable(model))
    places = len(context.result.smoothed)
    context.notes.append(f"Smoothed {by} where it is exact, in {places} places of {layers} layers and tables.")


def insert_quantization(context: StageContext) -> None:
    """Simulate the recipe's scheme in the whole floating-point model, with newly calibrated ranges."""
    settings = context.recipe.quantize
    assert settings is not None, "only a recipe with a scheme simulates one"  # noqa: S101
    if SCHEMES[settings.scheme].calibrated:
        calibrate(context.model, calibration_rows(context), settings, context.parts)
    insert_fake_quantization(context.model, simulation=Simulation.of(settings))


def settle_ranges(context: StageContext) -> None:
    """Recalibrate static ranges and check all ranges, after a stage and before its model ships."""
    if not is_simulated(context.model):
        return
    if context.recipe.quantize is not None and SCHEMES[context.recipe.quantize.scheme].calibrated:
        _refit(context)
    context.result.ranges = range_check.check_ranges(context.model, calibration_rows(context), context.parts)
    if (broken := range_check.describe_broken(context.result.ranges)) is not None:
        context.notes.append(broken)


def _refit(context: StageContext) -> None:
    """Calibrate again on the current model; keep the new ranges only if they improve validation.

    Training kept the old ranges fixed, and the weights adapted to them.
    """
    settings, trained = context.recipe.quantize, input_ranges(context.model)
    assert settings is not None, "see simulate"  # noqa: S101
    before = context.validate()
    calibrate(context.model, calibration_rows(context), settings, context.parts)
    after = context.validate()
    if after > before:
        change = f"validation {context.task.metric} {before} → {after}"
        loss = f"loss {-before.negative_loss:.4g} → {-after.negative_loss:.4g}"
        context.notes.append(f"Ranges were calibrated again on the model as it is now: {change}, {loss}.")
    else:
        set_input_ranges(context.model, trained)


def calibration_rows(context: StageContext) -> Examples:
    """Sample the recipe's number of calibration rows from train, never from test."""
    settings = context.recipe.quantize or Quantize()
    return shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed)
