"""Type aliases for tensors by name and for their shapes."""

from torch import Tensor

Tensors = dict[str, Tensor]


Shapes = tuple[tuple[int, ...], ...]
