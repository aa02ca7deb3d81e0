"""The modules that hold a network's tensors, and those that stand for values that integers round."""

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from compression.models.adapters.network.operators import is_even
from compression.models.networks.graph import Node
from compression.models.networks.window_distances import distances


class BatchNorm(nn.BatchNorm2d):
    """A BatchNorm over axis 1 of a value with any number of axes, which does not count its batches."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__(channels, epsilon)
        self.num_batches_tracked = None

    def forward(self, value: Tensor) -> Tensor:
        """(rows, channels, ...) -> the same shape. One position has no variance: it is normalized as in evaluation."""
        if self.training and value.numel() == value.shape[1]:
            return nn.functional.batch_norm(value, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(value)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        """Accept any number of axes."""

    def _load_from_state_dict(self, *given: Any) -> None:
        # torch's own adds the number of batches to a state without versions.
        nn.Module._load_from_state_dict(self, *given)


class Constant(nn.Module):
    """A tensor as a value. A single number is not trained: it is a part of a formula."""

    decays = False  #: positions, distances, biases and scales: none is a layer's matrix
    value: Tensor

    def __init__(self, shape: tuple[int, ...], *, trained: bool) -> None:
        super().__init__()
        self.window: int | None = None
        if trained and prod(shape) > 1:
            self.value = nn.Parameter(torch.zeros(shape))
        else:
            self.register_buffer("value", torch.zeros(shape))

    def share(self, window: int) -> None:
        """Train a value (..., heads, places, places) as one number of each head for all pairs of places equally far apart.

        Raises ValueError if the value is none of a window of this height.
        """
        places = window**2
        if self.value.shape[-2:] != (places, places):
            raise ValueError(f"a value {tuple(self.value.shape)} has not the places of windows of {window}")
        self.window = window

    @property
    def ties_in_training(self) -> bool:
        """Whether some of its numbers are one number, which only training mode keeps so."""
        return self.window is not None

    def forward(self) -> Tensor:
        """Return the tensor, without its gradient where none are computed: torch's counter would ask for it.

        In training shared numbers are their mean, so their gradients are equal, and so they stay.
        """
        value = self.value if torch.is_grad_enabled() else self.value.detach()
        if self.window is None or not self.training:
            return value
        places, flat = _places(self.window).to(value.device), value.reshape(-1, self.window**4)
        sums = flat.new_zeros(len(flat), int(places.max()) + 1).index_add(1, places, flat)
        return (sums / places.bincount()).index_select(1, places).view_as(value)


@lru_cache(maxsize=8)
def _places(window: int) -> Tensor:
    """Return the number of the distance between each two places of a window, one after another."""
    return torch.from_numpy(distances(window)).flatten()


class SlopedRelu(nn.Module):
    """max(x, 0) + slope * min(x, 0), with a slope of any shape that broadcasts (He et al. 2015, PReLU)."""

    decays = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full(shape, 0.25))

    def forward(self, value: Tensor) -> Tensor:
        """(rows, ...) -> the same shape."""
        return torch.where(value < 0, self.slope * value, value)


class PassedValue(nn.Module):
    """A value that integers round; an identity in a network without them. A calibrated one has an `input_range`.

    without_linear: whether it is also rounded if linear layers round their inputs themselves.
    """

    def __init__(self, *, without_linear: bool) -> None:
        super().__init__()
        self.without_linear = without_linear

    def forward(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value


def part_of(node: Node, *, trained: bool = True) -> nn.Module:
    """Make the module of a node that has tensors, with new weights. Raises ValueError if their shapes make none.

    trained: whether training may change a constant.
    """
    shapes = node.tensors
    try:
        made = _made(node, trained=trained)
    except (TypeError, IndexError, RuntimeError) as problem:  # torch's, of negative or missing sizes
        raise ValueError(f"{node.name}: {str(problem)[:200]}") from problem
    found = {name: tuple(tensor.shape) for name, tensor in made.state_dict(keep_vars=True).items()}
    if found != shapes:
        raise ValueError(f"{node.name}: its tensors are {shapes}, {node.op} makes {found} of them")
    return made


def _made(node: Node, *, trained: bool) -> nn.Module:
    shapes: dict[str, Any] = dict(node.tensors)  # `value_shapes` has checked them
    attributes: dict[str, Any] = dict(node.attributes)
    if node.op == "conv":
        outputs, inputs, *kernel = shapes["weight"]
        padding, groups = attributes["padding"], attributes["groups"]
        return nn.Conv2d(
            inputs * groups,
            outputs,
            tuple(kernel),
            attributes["stride"],
            padding[:2] if is_even(padding) else 0,
            attributes["dilation"],
            groups,
            bias="bias" in shapes,
        )
    if node.op == "linear":
        outputs, inputs = shapes["weight"]
        return nn.Linear(inputs, outputs, bias="bias" in shapes)
    if node.op == "batch_norm":
        return BatchNorm(shapes["weight"][0], attributes["epsilon"])
    if node.op == "layer_norm":
        return nn.LayerNorm(shapes["weight"], attributes["epsilon"], bias="bias" in shapes)
    return Constant(shapes["value"], trained=trained) if node.op == "constant" else SlopedRelu(shapes["slope"])
