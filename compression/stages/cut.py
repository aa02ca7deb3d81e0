"""One cut: another stock model that computes as the one before did, its integers simulated where they were."""

from collections.abc import Callable

from transformers import PreTrainedModel

from compression import families, numerics
from compression.families import Kept


def cut(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """Build the smaller model of what is kept."""
    return remade(model, lambda whole: families.of(whole).narrowed(whole, kept))


def remade(model: PreTrainedModel, build: Callable[[PreTrainedModel], PreTrainedModel]) -> PreTrainedModel:
    """Build a model of another one on the CPU, and have it compute like that one and where that one did."""
    simulated = any(type(module) is numerics.FakeQuantLinear for module in model.modules())
    device = next(model.parameters()).device
    other = build(model.cpu()).to(device).eval()
    if simulated:
        numerics.insert(other)
    return other
