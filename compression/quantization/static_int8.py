"""static-int8: uint8 activations with one calibrated range per layer, int8 weights with one scale per output channel.

A range [low, high] that includes 0 becomes scale = (high − low) / 255 and a zero point that represents 0 exactly (Jacob et al.
2018). Values outside are clipped and have no gradient; inside, gradients are straight-through. The bias is an integer too, in
units of the product of both scales: otherwise ONNX Runtime does not fuse the layer to its integer kernel.

A symmetric range has the zero point 128: its integers are those of int8 with zero point 0, −128 to 127, plus 128.
"""

from typing import Any

import torch
from torch import Tensor, nn

from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import LEVELS, SMALLEST_SCALE, SimulatedLinear
from compression.quantization.integer_products import exact_product
from compression.quantization.precision import gradient_dtype

Range = tuple[float, float]  #: the lowest and the highest value of a layer's input; 0 lies between
TOP = 255
MOST_BIAS = 2.0**30  #: largest integer bias: leaves the same room again in int32 for the sum of products
SIGNED = 128  #: integers from 0 to 255 are those of int8 plus this, the zero point of symmetric ranges


def affine(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point (0 to 255) of a range, widened to include 0. The scale is a float32."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = torch.tensor(max((high - low) / TOP, SMALLEST_SCALE), dtype=torch.float32).item()
    return scale, min(max(round(-low / scale), 0), TOP)


def symmetric(largest: float) -> Range:
    """Return the range with 255 steps of largest / 127 and the zero point SIGNED. largest: absolute value."""
    largest = max(largest, SMALLEST_SCALE * LEVELS)
    return -largest * SIGNED / LEVELS, largest


def codes(x: Tensor, scale: float, zero: int) -> Tensor:
    """Quantize as ONNX's QuantizeLinear does: half to even, saturating. -> integers 0 to 255 as float32, of x's shape."""
    return torch.round(x.detach() / scale).add_(zero).clamp_(0, TOP)


def static_weights(
    weight: Tensor, bias: Tensor | None, scale: float, levels: float | Tensor = LEVELS
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize the weights and bias of a layer whose inputs have `scale` -> int8 (out, in), float32 (out,), int32 (out,).

    weight: (out, in), bias: (out,); levels: the largest integer of the weight, or of each row, (out, 1). If a channel's weights
    are close to zero, its scale is as large as its bias needs, so that the integer bias does not exceed 2**30.
    """
    weight = weight.detach()
    scales = static_scales(weight, bias, scale, levels)
    whole = torch.round(weight / scales[:, None]).clamp(-levels, levels)  # type: ignore[arg-type]  # numbers or tensors
    return whole.to(torch.int8), scales, None if bias is None else torch.round(bias.detach() / (scale * scales)).to(torch.int32)


def static_scales(weight: Tensor, bias: Tensor | None, scale: float, levels: float | Tensor = LEVELS) -> Tensor:
    """Return the scale of each output channel, as `static_weights`. weight: (out, in), bias: (out,) -> (out,)"""
    scales = (weight.detach().abs().amax(dim=1, keepdim=True) / levels).squeeze(1)
    if bias is not None:
        scales = torch.maximum(scales, bias.detach().abs() / (scale * MOST_BIAS))
    return scales.clamp_min(SMALLEST_SCALE)


def shifted_product(left: Tensor, zero: int, right: Tensor) -> Tensor:
    """Multiply (left − zero) by rightᵀ exactly. left: 0 to 255 (m, k), right: int8 (n, k) -> int32 (m, n)."""
    # The product is of signed × signed: left and zero are shifted by 128, and the row sums of `right` correct for zero.
    products = exact_product((left - 128).to(torch.int8), right)
    return products.sub_((zero - 128) * right.sum(dim=1, dtype=torch.int32))


class _StaticLinear(torch.autograd.Function):
    """x, weight, bias, levels, range -> the artifact's output; straight-through gradients, x clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, levels: float, low: float, high: float) -> Tensor:
        scale, zero = affine(low, high)
        flat = x.reshape(-1, x.shape[-1])
        rows = codes(flat, scale, zero)
        columns, column_scale, whole_bias = static_weights(weight, bias, scale, levels)
        # Compare before saturating: values on the edge are not clipped.
        unclipped = torch.round(flat / scale).add_(zero)
        ctx.save_for_backward(rows, columns, column_scale, (unclipped >= 0) & (unclipped <= TOP))
        ctx.scale, ctx.zero, ctx.dtype = scale, zero, gradient_dtype(x.device)
        sums = shifted_product(rows, zero, columns)
        if whole_bias is not None:
            sums = sums + whole_bias
        return (sums.float() * (scale * column_scale)).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, column_scale, inside = ctx.saved_tensors
        grad, dtype = grads[0].reshape(-1, grads[0].shape[-1]), ctx.dtype
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = ((grad * column_scale).to(dtype) @ columns.to(dtype)).float().mul_(inside)
            to_x = to_x.view(*grads[0].shape[:-1], columns.shape[1])
        if ctx.needs_input_grad[1]:
            to_weight = (grad.to(dtype).t() @ ((rows - ctx.zero) * ctx.scale).to(dtype)).float()
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum(dim=0)
        return to_x, to_weight, to_bias, None, None, None


class StaticLinear(SimulatedLinear):
    """nn.Linear that computes as the static int8 artifact does. Its range is an attribute, so state dicts keep their keys; in a
    network it is that of the value which it reads (`rounded_network.connect`).
    """

    scheme = "static-int8"
    input_range: Range | None
    source: tuple[nn.Module, ...] = ()

    def ends(self) -> Range:
        """Return the range. Raises RuntimeError if the layer was not calibrated."""
        found: Range | None = getattr(self.source[0] if self.source else self, "input_range", None)
        if found is None:
            raise RuntimeError("a static layer runs before it is calibrated")
        return found

    def grid(self) -> tuple[float, int]:
        """Return scale and zero point. Raises RuntimeError if the layer was not calibrated."""
        return affine(*self.ends())

    def activation_integers(self, input: Tensor) -> Tensor:  # noqa: A002
        """Quantize the input. (..., in) -> integers 0 to 255 of the same shape, float32."""
        return codes(input, *self.grid())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """Compute the layer with integers. (..., in) -> (..., out)."""
        out: Tensor = _StaticLinear.apply(input, matrix(self), self.bias, self.levels, *self.ends())  # type: ignore[no-untyped-call]
        return out
