"""Access the matrices of layers: nn.Linear's (outputs, inputs), GPT-2's Conv1D's (inputs, outputs), those of convolutions."""

import math

import torch
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


def input_columns(layer: nn.Module, given: Tensor, most: int | None = None) -> Tensor:
    """Return what the columns of `whole_matrix` are multiplied by: (rows, positions, columns).

    most: of a convolution's positions, on a grid over the whole map; the others are not computed. None: all.
    """
    if not isinstance(layer, nn.Conv2d):
        return given.reshape(len(given), -1, given.shape[-1])
    assert not isinstance(layer.padding, str)  # noqa: S101 (graphs of operators have numbers)
    (high, wide), (down, right) = layer.kernel_size, layer.padding
    padded = functional.pad(given, (right, right, down, down))
    rows, columns = (
        spread((size - dilation * (kernel - 1) - 1) // stride + 1, most) * stride
        for size, kernel, stride, dilation in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    )
    rows = rows[:, None, None, None] + layer.dilation[0] * torch.arange(high)[:, None]
    columns = columns[:, None, None] + layer.dilation[1] * torch.arange(wide)
    patches = padded[:, :, rows.to(given.device), columns.to(given.device)]  # (rows, channels, down, right, high, wide)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def spread(count: int, most: int | None) -> Tensor:
    """Return evenly spaced places of one side of a map, so many that two sides have at most `most`; None: all. -> (n,)"""
    few = count if most is None else min(count, math.isqrt(most))
    return torch.linspace(0, count - 1, few).round().long()
