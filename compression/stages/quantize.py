"""Simulate the shipped integers from here on and, where the recipe asks for it, train the model to live with them."""

import math
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from compression import families, numerics
from compression.calibration import calibration_rows
from compression.evaluate import Validation
from compression.numerics import DYNAMIC, Simulation
from compression.recipe import Qat
from compression.report import Event
from compression.sensitivity import depths, named, only, sensitivities
from compression.simulating import simulate, smooth
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train

PHASE = "quantization-aware training"
ORDER = "qat.order"
"""What the order of the depths is saved as, beside the training."""


def quantize(state: State) -> Iterator[Event]:
    """Smooth if the recipe says so, simulate its scheme in the whole model; train with it on the progressive schedule first.

    A new attempt that comes back in mid-training takes ranges and order from what was saved.
    """
    settings, model = state.recipe.quantize, state.model
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    before = state.validate()
    smooth(state)
    simulate(state)
    after = state.validate()
    bits = "int4" if settings.scheme == "weight-only-int4" else "int8"
    state.notes.append(f"Rounding to {bits} alone: validation {state.task.metric} {before} → {after}.")
    if left := numerics.left_in_float(model):
        whole = families.of(model).parameters_of(model).total
        state.notes.append(
            f"{left:,} of {whole:,} parameters, those of the experts' routers, are neither simulated nor shipped as integers."
        )
    qat = settings.qat
    if qat is None or qat.epochs == 0:
        return
    order, simulation = ordered(state, qat), Simulation.of(settings)
    plan = state.plan("quantize.qat", epochs=qat.epochs, rate=qat.rate, dropout=True)
    ticks = train(
        model,
        plan,
        state.rows["train"],
        state.rows["validation"],
        labelled(state.task, model),
        before_epoch=lambda epoch: simulate_first(model, share(qat, epoch), order, simulation),
        validation=lambda: _quantized_validation(state, simulation),
        course=state.course("quantized", PHASE, beside={ORDER: torch.tensor(order)}),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("quantized", PHASE, ticks)
    numerics.insert(model, simulation=simulation)
    state.notes.append(
        f"Quantization-aware training: validation {state.task.metric} {outcome.before} → "
        f"{outcome.best} (best of epochs 0 to {qat.epochs}: {outcome.best_epoch})."
    )
    if 0 < outcome.best_epoch <= qat.full:
        state.notes.append(
            f"That epoch is one of the {qat.full} in full precision: training with integers brought nothing better."
        )
    state.notes += outcome.remarks


def ordered(state: State, qat: Qat) -> list[int]:
    """Say in which order the depths are quantized, and note what was measured. The model is left fully quantized.

    A new attempt that was in the training already has the order, and the notes, from what was saved.
    """
    model, settings = state.model, state.recipe.quantize
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    if state.saver is not None and state.saver.is_at("quantized", PHASE):
        return [int(depth) for depth in state.saver.beside()[ORDER]]
    if qat.order == "depth":
        return depths(model)
    simulation = Simulation.of(settings)
    found = sensitivities(model, calibration_rows(state), simulation, state.parts)
    numerics.insert(model, simulation=simulation)
    order = sorted(found, key=lambda depth: (found[depth], depth))
    layers = families.of(model).shape_of(model.config).layers
    told = ", ".join(f"{named(depth, layers)} {found[depth]:.2g}" for depth in order)
    state.notes.append(f"Sensitivity, least first (change of the logits' mean square, each depth quantized alone): {told}.")
    return order


def share(qat: Qat, epoch: int) -> float:
    """Say what share of the layers is quantized in an epoch, from 1: none, then growing, then all."""
    return min(max(epoch - qat.full, 0) / (qat.ramp + 1), 1.0)


def simulate_first(model: PreTrainedModel, part: float, order: Sequence[int], simulation: Simulation = DYNAMIC) -> None:
    """Quantize the first `part` of the depths in `order`: embeddings, the layers, and the head are one each."""
    only(model, set(order[: math.ceil(part * len(order))]), simulation)


def _quantized_validation(state: State, simulation: Simulation) -> Validation:
    """Judge an epoch by the fully quantized model whatever was simulated in it, because that is what is shipped."""
    numerics.insert(state.model, simulation=simulation)
    return state.validate()
