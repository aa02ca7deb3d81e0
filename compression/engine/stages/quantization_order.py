"""Sensitivity: how much a model's answers change when one depth alone is quantized."""

from collections.abc import Callable

from transformers import PreTrainedModel

from compression.evaluation.validate import logits
from compression.modalities.base import Examples
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, remove_fake_quantization


def depths(model: PreTrainedModel) -> list[int]:
    """List the depths that a scheme quantizes, ascending: 0 the embeddings, then the layers, last what follows them."""
    depth = adapter_of(model).quantization_group
    return sorted({depth(name) for name, _ in quantizable(model)})


def only(model: PreTrainedModel, chosen: set[int], simulation: Simulation) -> None:
    """Simulate integers in the chosen depths, and in no others."""
    depth = adapter_of(model).quantization_group
    remove_fake_quantization(model)
    insert_fake_quantization(model, lambda name: depth(name) in chosen, simulation)


def sensitivities(model: PreTrainedModel, rows: Examples, simulation: Simulation, parts: int = 1) -> dict[int, float]:
    """Measure each depth: the mean square by which the logits change, as a share of their own mean square. -> depth → share

    rows: of train. The model is left without simulated integers; layers of a static scheme must have been calibrated.
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
    """Return what tells how much the logits of all rows have changed since now."""
    plain = logits(model, rows, parts)
    scale = plain.square().mean().clamp_min(1e-12)
    return lambda: ((logits(model, rows, parts) - plain).square().mean() / scale).item()


def named(depth: int, layers: int) -> str:
    """Name a depth for a reader. layers: how many the encoder has."""
    return "embeddings" if depth == 0 else f"layer {depth}" if depth <= layers else "head"
