"""Simulates the shipped quantization from here on, with quantization-aware training if requested."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.insert_quantization import calibration_rows, insert_quantization, smooth_model
from compression.engine.stages.registry import ExpectedWork, StageRunner
from compression.evaluation.validate import Validation, logits
from compression.modalities.base import Examples, label_loss
from compression.models.adapters.registry import adapter_of
from compression.quantization import fake_quantize
from compression.quantization.fake_quantize import DYNAMIC, Simulation, insert_fake_quantization, remove_fake_quantization
from compression.schema.events import Event
from compression.schema.recipe.quantize import Qat
from compression.schema.schemes import SCHEMES
from compression.training.work import TrainingHooks

PHASE = "quantization-aware training"
ORDER = "qat.order"  #: key under which a training's save stores the order of the depths


def quantize(context: StageContext) -> Iterator[Event]:
    """Smooth the model if the recipe says so, simulate its scheme, and run quantization-aware training in the progressive
    schedule. A new attempt that resumes in it takes ranges and order from the save.
    """
    settings, model = context.recipe.quantize, context.model
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    before = context.validate()
    smooth_model(context)
    insert_quantization(context)
    after = context.validate()
    bits = SCHEMES[settings.scheme].precision
    context.notes.append(f"Rounding to {bits} alone: validation {context.task.metric} {before} → {after}.")
    context.notes.extend(fake_quantize.remarks(model, settings.scheme, adapter_of(model).parameters_of(model).total))
    qat = settings.qat
    if qat is None or qat.epochs == 0:
        return
    order, simulation = ordered(context, qat), Simulation.of(settings)
    plan = context.plan("quantize.qat", epochs=qat.epochs, rate=qat.rate, dropout=True)
    ticks = context.train(
        PHASE,
        plan,
        label_loss(context.task, model),
        TrainingHooks(partial(_begin_epoch, model, qat, order, simulation)),
        judge=lambda: _quantized_validation(context, simulation),
        beside={ORDER: torch.tensor(order)},
    )
    outcome = yield from context.tracker.relay(PHASE, ticks)
    insert_fake_quantization(model, simulation=simulation)
    context.note_training("Quantization-aware training", outcome, qat.epochs)
    if 0 < outcome.best_epoch <= qat.full:
        context.notes.append(
            f"That epoch is one of the {qat.full} in full precision: training with integers brought nothing better."
        )
    context.notes.extend(outcome.remarks)


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the phase of quantization-aware training, which may have no epochs."""
    qat = expected.recipe.quantize.qat if expected.recipe.quantize is not None else None
    yield PHASE, (qat.epochs if qat else 0) * expected.train


STAGE = StageRunner(quantize, phases)


def ordered(context: StageContext, qat: Qat) -> list[int]:
    """Return the order in which depths are quantized, and note the measured sensitivities. The model ends fully quantized. A
    new attempt that resumes during training takes the order and the notes from the save.
    """
    model, settings = context.model, context.recipe.quantize
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    if (saved := context.saved(PHASE)) is not None:
        return [int(depth) for depth in saved[ORDER]]
    if qat.order == "depth":
        return depths(model)
    simulation = Simulation.of(settings)
    found = sensitivities(model, calibration_rows(context), simulation, context.parts)
    insert_fake_quantization(model, simulation=simulation)
    order = sorted(found, key=lambda depth: (found[depth], depth))
    layers = len(adapter_of(model).layer_parameters(model))
    each = ", ".join(f"{named(depth, layers)} {found[depth]:.2g}" for depth in order)
    context.notes.append(f"Sensitivity, least first (change of the logits' mean square, each depth quantized alone): {each}.")
    return order


def share(qat: Qat, epoch: int) -> float:
    """Return the share of the depths quantized in an epoch, from 1: none, then growing, then all."""
    return min(max(epoch - qat.full, 0) / (qat.ramp + 1), 1.0)


def simulate_first(model: PreTrainedModel, part: float, order: Sequence[int], simulation: Simulation = DYNAMIC) -> None:
    """Quantize the first share `part` of the depths in `order`: embeddings, each layer, and the head."""
    only(model, set(order[: math.ceil(part * len(order))]), simulation)


def _begin_epoch(model: PreTrainedModel, qat: Qat, order: Sequence[int], simulation: Simulation, epoch: int) -> None:
    simulate_first(model, share(qat, epoch), order, simulation)


def _quantized_validation(context: StageContext, simulation: Simulation) -> Validation:
    """Judge an epoch by the fully quantized model, whatever the epoch simulated: that model is shipped."""
    insert_fake_quantization(context.model, simulation=simulation)
    return context.validate()


def depths(model: PreTrainedModel) -> list[int]:
    """Return the depths that a scheme quantizes, ascending: 0 for the embeddings, each layer, and one for what follows."""
    depth = adapter_of(model).depth_of(model)
    return sorted({depth(name) for name, _ in fake_quantize.quantizable(model)})


def only(model: PreTrainedModel, chosen: set[int], simulation: Simulation) -> None:
    """Simulate quantization in the chosen depths only."""
    depth = adapter_of(model).depth_of(model)
    remove_fake_quantization(model)
    insert_fake_quantization(model, lambda name: depth(name) in chosen, simulation)


def sensitivities(model: PreTrainedModel, rows: Examples, simulation: Simulation, parts: int = 1) -> dict[int, float]:
    """Return depth → sensitivity: the logits' mean squared change on rows of train, divided by their mean square. The model
    ends without simulated quantization. A static scheme's layers must be calibrated.
    """
    remove_fake_quantization(model)
    packed = rows.task.packed
    change = _of_answers(model, rows, parts) if packed is None else packed.change(model, rows, parts)
    found = {}
    for depth in depths(model):
        only(model, {depth}, simulation)
        found[depth] = change()
    remove_fake_quantization(model)
    return found


def _of_answers(model: PreTrainedModel, rows: Examples, parts: int) -> Callable[[], float]:
    """Return a function that measures how much the logits of all rows have changed since this call."""
    plain = logits(model, rows, parts)
    scale = plain.square().mean().clamp_min(1e-12)
    return lambda: ((logits(model, rows, parts) - plain).square().mean() / scale).item()


def named(depth: int, layers: int) -> str:
    """Return a depth's readable name. layers: the model's number of layers."""
    return "embeddings" if depth == 0 else f"layer {depth}" if depth <= layers else "head"
