"""Access the weights of linear layers: nn.Linear's (outputs, inputs), GPT-2's Conv1D's (inputs, outputs)."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR_TYPES = (nn.Linear, Conv1D)


def matrix(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer or a table as (outputs, inputs): the parameter itself or a view of it."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 (narrows nn.Module's attribute type)
    return weight.t() if isinstance(layer, Conv1D) else weight


def is_transposed(module: nn.Module) -> bool:
    """Return whether a layer's weight is (inputs, outputs). Libraries that quantize by row expect the outputs first."""
    return isinstance(module, Conv1D)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, with or without simulated quantization."""
    return isinstance(module, LINEAR_TYPES)
