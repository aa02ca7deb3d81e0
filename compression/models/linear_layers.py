"""Linear layers whichever way their weight lies: nn.Linear's, and GPT-2's Conv1D, which keeps it as (inputs, outputs)."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR_TYPES = (nn.Linear, Conv1D)


def matrix(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer or a table as (outputs, inputs): the parameter itself or a view of it."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 (narrows nn.Module's attribute type)
    return weight.t() if isinstance(layer, Conv1D) else weight


def is_transposed(module: nn.Module) -> bool:
    """Say whether a layer's weight lies as (inputs, outputs), where libraries that quantize by row look for outputs."""
    return isinstance(module, Conv1D)


def is_linear(module: nn.Module) -> bool:
    """Say whether a module is a linear layer, simulated or not."""
    return isinstance(module, LINEAR_TYPES)
