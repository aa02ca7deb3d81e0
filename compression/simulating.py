"""The recipe's scheme in a job's model: put in with ranges of its own, and looked after when a stage has changed the model."""

from compression import numerics, ranges, smoothing
from compression.calibration import calibrate, calibration_rows
from compression.numerics import Simulation
from compression.state import State


def smooth(state: State) -> None:
    """Smooth the model as the recipe says, where it does. Nothing may be simulated in it yet."""
    settings, model = state.recipe.quantize, state.model
    if settings is None or settings.smoothing is None:
        return
    how = settings.smoothing
    state.smoothed = smoothing.smooth(model, calibration_rows(state), how, state.parts, Simulation.of(settings))
    by = "by factors that were searched for" if how == "search" else f"with α = {how:g}"
    layers = sum(1 for _ in numerics.quantizable(model))
    state.notes.append(f"Smoothed {by} where it is exact, in {len(state.smoothed)} places of {layers} layers and tables.")


def simulate(state: State) -> None:
    """Simulate the recipe's scheme in the whole model, which is in floating point; ranges are calibrated anew."""
    settings = state.recipe.quantize
    assert settings is not None, "only a recipe with a scheme simulates one"  # noqa: S101
    if settings.scheme == "static-int8":
        calibrate(state.model, calibration_rows(state), settings, state.parts)
    numerics.insert(state.model, simulation=Simulation.of(settings))


def settle(state: State) -> None:
    """After a stage, before its model is shipped: let static ranges follow the weights, and check how all ranges are."""
    state.ranges = ()
    if not numerics.is_simulated(state.model):
        return
    if state.recipe.quantize is not None and state.recipe.quantize.scheme == "static-int8":
        _refit(state)
    state.ranges = ranges.check(state.model, calibration_rows(state), state.parts)
    if (broken := ranges.told(state.ranges)) is not None:
        state.notes.append(broken)


def _refit(state: State) -> None:
    """Calibrate again on the model as it computes now; the new ranges stay if validation is better with them.

    Training held the old ones fast, and its weights have learned to live with them.
    """
    settings, trained = state.recipe.quantize, numerics.ranges_of(state.model)
    assert settings is not None, "see simulate"  # noqa: S101
    before = state.validate()
    calibrate(state.model, calibration_rows(state), settings, state.parts)
    after = state.validate()
    if after > before:
        change = f"validation {state.task.metric} {before} → {after}"
        loss = f"loss {-before.negative_loss:.4g} → {-after.negative_loss:.4g}"
        state.notes.append(f"Ranges were calibrated again on the model as it is now: {change}, {loss}.")
    else:
        numerics.set_ranges(state.model, trained)
