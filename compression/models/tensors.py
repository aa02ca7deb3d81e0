"""Tensors by name, and their shapes."""

from torch import Tensor

Tensors = dict[str, Tensor]


Shapes = tuple[tuple[int, ...], ...]
