"""The recipe's scheme in a job's model: put in with ranges of its own, and looked after when a stage has changed the model."""

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


def smooth_model(context: StageContext) -> None:
    """Smooth the model as the recipe says, where it does. Nothing may be simulated in it yet."""
    settings, model = context.recipe.quantize, context.model
    if settings is None or settings.smoothing is None:
        return
    how = settings.smoothing
    context.smoothed = smoothquant.smooth(model, calibration_rows(context), how, context.parts, Simulation.of(settings))
    by = "by factors that were searched for" if how == "search" else f"with α = {how:g}"
    layers = sum(1 for _ in quantizable(model))
    context.notes.append(f"Smoothed {by} where it is exact, in {len(context.smoothed)} places of {layers} layers and tables.")


def insert_quantization(context: StageContext) -> None:
    """Simulate the recipe's scheme in the whole model, which is in floating point; ranges are calibrated anew."""
    settings = context.recipe.quantize
    assert settings is not None, "only a recipe with a scheme simulates one"  # noqa: S101
    if settings.scheme == "static-int8":
        calibrate(context.model, calibration_rows(context), settings, context.parts)
    insert_fake_quantization(context.model, simulation=Simulation.of(settings))


def settle_ranges(context: StageContext) -> None:
    """After a stage, before its model is shipped: let static ranges follow the weights, and check how all ranges are."""
    context.ranges = ()
    if not is_simulated(context.model):
        return
    if context.recipe.quantize is not None and context.recipe.quantize.scheme == "static-int8":
        _refit(context)
    context.ranges = range_check.check_ranges(context.model, calibration_rows(context), context.parts)
    if (broken := range_check.describe_broken(context.ranges)) is not None:
        context.notes.append(broken)


def _refit(context: StageContext) -> None:
    """Calibrate again on the model as it computes now; the new ranges stay if validation is better with them.

    Training held the old ones fast, and its weights have learned to live with them.
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
    """Draw the rows that a job's recipe says: of train, never of test."""
    settings = context.recipe.quantize or Quantize()
    return shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed)
