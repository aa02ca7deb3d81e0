"""Access the matrices of layers: nn.Linear's (outputs, inputs), GPT-2's Conv1D's (inputs, outputs), those of convolutions."""

from torch import Tensor, nn
from torch.nn import functional
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


def has_matrix(module: nn.Module) -> bool:
    """Return whether all of a layer's outputs are products of one matrix: linear layers, and convolutions without groups."""
    return is_linear(module) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def whole_matrix(layer: nn.Module) -> Tensor:
    """Return the weight of a layer with a matrix as (outputs, columns): a convolution has a column for each place of its
    kernel, those of an input side by side.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.weight.flatten(1)
    return matrix(layer)


def set_matrix(layer: nn.Module, values: Tensor) -> None:
    """Replace the weight of a layer with a matrix, in place. values: (outputs, columns), as `whole_matrix` returns them."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 (narrows nn.Module's attribute type)
    weight.data.copy_(values.t() if is_transposed(layer) else values.reshape(weight.shape))


def unfolding(layer: nn.Module) -> tuple[object, ...]:
    """Return what tells layers apart that make other columns of the same input; empty for linear layers."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return ()


def input_columns(layer: nn.Module, given: Tensor) -> Tensor:
    """Return what the columns of `whole_matrix` are multiplied by: (rows, positions, columns)."""
    if isinstance(layer, nn.Conv2d):
        sizes = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
        return functional.unfold(given, layer.kernel_size, **sizes).transpose(1, 2)  # type: ignore[arg-type]
    return given.reshape(len(given), -1, given.shape[-1])
