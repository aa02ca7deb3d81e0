"""A network's integers: values that are rounded once for all their readers, and convolutions with rounded weights.

A value is uint8 in one calibrated range, as the input of a static-int8 layer (`static_int8`). Weights are int8, with one scale
per output channel. The artifact folds a BatchNorm into the convolution before it, which multiplies each output channel by a
number; as each channel has its own scale, the integers of the folded weights are those of the weights, of which some channels
change the sign. So a convolution rounds its own weights and its BatchNorm stays as it is: it trains with the statistics of its
batches and answers, once it is evaluated, as the folded convolution. Then it also adds what rounding does to the folded bias.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.models.adapters.network.parts import PassedValue
from compression.models.networks.folding import folds
from compression.models.networks.graph import Graph
from compression.models.networks.rounded_values import LAYERS, rounding
from compression.quantization.dynamic_int8 import LEVELS, PORTABLE_LEVELS
from compression.quantization.pair_levels import pair_levels
from compression.quantization.precision import full_float32, gradient_dtype
from compression.quantization.static_int8 import TOP, Range, affine, codes, static_scales
from compression.quantization.weight_only import fake_quantized_weights
from compression.schema.schemes import Scheme


class _Rounded(torch.autograd.Function):
    """x, scale, zero point -> x on the grid; straight-through gradients, none where x is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int) -> Tensor:
        if ctx.needs_input_grad[0]:
            # Comparisons are slow on a CPU. What a ReLU made is kept anyway; of others this keeps four bytes, a mask one.
            ctx.save_for_backward(x)
            # A value on the edge is not clipped: rounding takes it back.
            ctx.ends = (-zero - 0.5) * scale, (TOP - zero + 0.5) * scale
        whole = (x / scale).round_()
        if zero:
            return whole.add_(zero).clamp_(0, TOP).sub_(zero).mul_(scale)
        return whole.clamp_(0, TOP).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], x, *ctx.ends), None, None


class _HalfGradients(torch.autograd.Function):
    """x, weight, layer, dtype -> the layer's convolution in float32 without a bias; its gradients are computed in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: nn.Conv2d, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x.to(dtype), weight.to(dtype))
        ctx.settings = layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups
        return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        found = torch.ops.aten.convolution_backward(grads[0].to(x.dtype), x, weight, None, *ctx.settings, wanted)
        to_x, to_weight = (None if one is None else one.float() for one in found[:2])
        return to_x, to_weight, None, None


class RoundedValue(PassedValue):
    """A value that is rounded to uint8. Its range is an attribute, so state dicts keep their keys."""

    input_range: Range | None

    def grid(self) -> tuple[float, int]:
        """Return scale and zero point. Raises RuntimeError if the value was not calibrated."""
        found: Range | None = getattr(self, "input_range", None)
        if found is None:
            raise RuntimeError("a value is rounded before it is calibrated")
        return affine(*found)

    def activation_integers(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is SimulatedLinear's)
        """Quantize the value -> integers 0 to 255 of the same shape, float32."""
        return codes(input, *self.grid())

    def forward(self, value: Tensor) -> Tensor:
        """Round a value of any shape."""
        rounded: Tensor = _Rounded.apply(value, *self.grid())  # type: ignore[no-untyped-call]
        return rounded


class SimulatedConv(nn.Conv2d):
    """nn.Conv2d with the artifact's weights. Same state dict; `scheme` and `levels` as in `SimulatedLinear`."""

    scheme: Scheme = "static-int8"
    levels: float = LEVELS
    source: tuple[nn.Module, ...] = ()  #: the value that it reads; tuples, so that neither becomes a part of this module
    symmetric: bool = False  #: as in `SimulatedLinear`
    norm: tuple[nn.BatchNorm2d, ...] = ()  #: the BatchNorm that the artifact folds into it, if there is one

    @property
    def is_depthwise(self) -> bool:
        """Return whether each output channel reads one input channel of its own: such products are added in 32 bits on every
        processor, so weights within ±127 are portable (docs/decisions/0046).
        """
        return self.groups == self.in_channels == self.out_channels

    def row_levels(self) -> float | Tensor:
        """Return the largest integer, of all output channels or of each, (out, 1). Folding a BatchNorm does not change it."""
        if self.levels != PORTABLE_LEVELS:
            return self.levels
        return LEVELS if self.is_depthwise else pair_levels(self.weight)

    def activation_integers(self, input: Tensor) -> None:  # noqa: A002
        """Return None: the value that it reads is rounded, not its input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Conv2d's)
        """Compute the layer with dequantized weights. (rows, in, height, width) -> (rows, out, ...)."""
        weight = fake_quantized_weights(self.weight.flatten(1), None, self.row_levels()).view_as(self.weight)
        bias = self.bias if self.training else self.rounded_bias()
        with full_float32(input.device):
            return self._convolved(input, weight, bias)

    def _convolved(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        # Gradients of grouped convolutions are slower in bfloat16 (docs/decisions/0069).
        dtype = gradient_dtype(input.device) if self.groups == 1 and torch.is_grad_enabled() else torch.float32
        out: Tensor
        if dtype == torch.float32:
            out = self._conv_forward(input, weight, bias)
        else:
            out = _HalfGradients.apply(input, weight, self, dtype)  # type: ignore[no-untyped-call]
            out = out if bias is None else out + bias[:, None, None]
        return out

    def rounded_bias(self) -> Tensor | None:
        """Return a bias for which the folded one is what the artifact stores in units of both scales. -> (out,), or None. Its
        gradient is the bias's own: training in evaluation mode, as distillation does, changes it too.
        """
        if not self.source or not isinstance(value := self.source[0], RoundedValue) or (self.bias is None and not self.norm):
            return self.bias
        moved = self._moved(value)
        return moved if self.bias is None else self.bias + moved

    @torch.no_grad()
    def _moved(self, value: RoundedValue) -> Tensor:
        """Return what rounding the folded bias adds to the layer's own. value: that it reads -> (out,)"""
        own = torch.zeros(len(self.weight), device=self.weight.device) if self.bias is None else self.bias
        factor, folded = torch.ones_like(own), own
        for norm in self.norm:
            assert norm.running_mean is not None  # noqa: S101 (a network's have statistics)
            assert norm.running_var is not None  # noqa: S101
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            folded = norm.bias + factor * (own - norm.running_mean)
        scale, _ = value.grid()
        units = scale * static_scales(self.weight.flatten(1) * factor[:, None], folded, scale, self.row_levels())
        moved = torch.round(folded / units) * units - folded
        return torch.where(factor == 0, 0.0, moved / factor)


def connect(model: nn.Module) -> None:
    """Name the value that each layer of a network reads, and the BatchNorm that is folded into each convolution. Layers of
    other models have the range of their own input.
    """
    if not (values := dict(passed_values(model))):
        return
    graph: Graph = model.config.network  # type: ignore[union-attr, assignment]
    ranges, norms = rounding(graph).ranges, folds(graph, ("conv",))
    for node in graph.used():
        if node.op in LAYERS:
            layer = model.get_submodule(node.name)
            layer.source = (values[f"values.{ranges[node.inputs[0]]}"],)  # type: ignore[assignment]
            layer.norm = (model.get_submodule(norms[node.name]),) if node.name in norms else ()  # type: ignore[assignment]


def passed_values(model: nn.Module) -> Iterator[tuple[str, PassedValue]]:
    """Yield (name, module) of a network's values that can be rounded, simulated or not, in model order."""
    for name, module in model.named_modules():
        if isinstance(module, PassedValue):
            yield name, module
