"""Sensitivity: how much a model's answers change when one depth alone is quantized."""

from transformers import PreTrainedModel

from compression import families, numerics
from compression.batches import Encoded
from compression.evaluate import logits
from compression.numerics import Simulation


def depths(model: PreTrainedModel) -> list[int]:
    """List the depths that a scheme quantizes, ascending: 0 the embeddings, then the layers, last what follows them."""
    depth = families.of(model).quantization_group
    return sorted({depth(name) for name, _ in numerics.quantizable(model)})


def only(model: PreTrainedModel, chosen: set[int], simulation: Simulation) -> None:
    """Simulate integers in the chosen depths, and in no others."""
    depth = families.of(model).quantization_group
    numerics.remove(model)
    numerics.insert(model, lambda name: depth(name) in chosen, simulation)


def sensitivities(model: PreTrainedModel, rows: Encoded, simulation: Simulation, parts: int = 1) -> dict[int, float]:
    """Measure each depth: the mean square by which the logits change, as a share of their own mean square. -> depth → share

    rows: of train. The model is left without simulated integers; layers of a static scheme must have been calibrated.
    """
    numerics.remove(model)
    plain = logits(model, rows, parts)
    scale = plain.square().mean().clamp_min(1e-12)
    found = {}
    for depth in depths(model):
        only(model, {depth}, simulation)
        found[depth] = ((logits(model, rows, parts) - plain).square().mean() / scale).item()
    numerics.remove(model)
    return found


def named(depth: int, layers: int) -> str:
    """Name a depth for a reader. layers: how many the encoder has."""
    return "embeddings" if depth == 0 else f"layer {depth}" if depth <= layers else "head"
