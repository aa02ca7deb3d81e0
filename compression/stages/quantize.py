"""Simulate the shipped integers from here on and, where the recipe asks for it, train the model to live with them."""

import math
from collections.abc import Callable, Iterator

from transformers import PreTrainedModel

from compression import families, numerics
from compression.evaluate import Validation
from compression.recipe import Qat
from compression.report import Event
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train


def quantize(state: State) -> Iterator[Event]:
    """Insert fake quantization into the whole model; train with it on the progressive schedule first, if there is one.

    The scheme has no state to calibrate: every scale is computed from the row at hand.
    """
    recipe, model = state.recipe, state.model
    qat = recipe.quantize.qat if recipe.quantize else None
    before = state.validate()
    numerics.insert(model)
    after = state.validate()
    state.notes.append(f"Rounding to int8 alone: validation {state.task.metric} {before.score:.4f} → {after.score:.4f}.")
    if qat is None or qat.epochs == 0:
        return
    plan = state.plan("quantize.qat", epochs=qat.epochs, rate=qat.rate, dropout=True)
    ticks = train(
        model,
        plan,
        state.rows["train"],
        state.rows["validation"],
        labelled(state.task, model),
        before_epoch=lambda epoch: simulate(model, share(qat, epoch)),
        validation=lambda: _quantized_validation(state),
        course=state.course("quantized", "quantization-aware training"),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("quantized", "quantization-aware training", ticks)
    numerics.insert(model)
    state.notes.append(
        f"Quantization-aware training: validation {state.task.metric} {outcome.before.score:.4f} → "
        f"{outcome.best.score:.4f} (best of epochs 0 to {qat.epochs}: {outcome.best_epoch})."
    )
    state.notes += outcome.remarks


def share(qat: Qat, epoch: int) -> float:
    """Say what share of the layers is quantized in an epoch, from 1: none, then growing, then all."""
    return min(max(epoch - qat.full, 0) / (qat.ramp + 1), 1.0)


def simulate(model: PreTrainedModel, part: float) -> None:
    """Fake-quantize the first `part` of the depths: embeddings, then the layers from shallow to deep, then the head."""
    chosen = _first(model, part)
    numerics.remove(model)
    numerics.insert(model, only=chosen)


def _first(model: PreTrainedModel, part: float) -> Callable[[str], bool]:
    depth = families.of(model).quantization_group
    depths = sorted({depth(name) for name, _ in numerics.quantizable(model)})
    chosen = set(depths[: math.ceil(part * len(depths))])
    return lambda name: depth(name) in chosen


def _quantized_validation(state: State) -> Validation:
    """Judge an epoch by the fully quantized model whatever was simulated in it, because that is what is shipped."""
    numerics.insert(state.model)
    return state.validate()
