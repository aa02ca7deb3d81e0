"""Measures sensitivity: how much a model's outputs change if one depth alone is quantized."""

from collections.abc import Callable

from transformers import PreTrainedModel

from compression.evaluation.validate import logits
from compression.modalities.base import Examples
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, remove_fake_quantization


def depths(model: PreTrainedModel) -> list[int]:
    """Return the depths that a scheme quantizes, ascending: 0 for the embeddings, each layer, and one for what follows."""
    depth = adapter_of(model).quantization_group
    return sorted({depth(name) for name, _ in quantizable(model)})


def only(model: PreTrainedModel, chosen: set[int], simulation: Simulation) -> None:
    """Simulate quantization in the chosen depths only."""
    depth = adapter_of(model).quantization_group
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
    """Return a depth's readable name. layers: the encoder's number of layers."""
    return "embeddings" if depth == 0 else f"layer {depth}" if depth <= layers else "head"
