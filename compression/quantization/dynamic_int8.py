"""dynamic-int8: its integers, simulated in training exactly as the exported artifact computes.

Weights are int8, symmetric, one scale per output channel; activations 8-bit, symmetric, one scale per token (row), computed
dynamically; embeddings int8, one scale per row. All scales are max|·| / 127; in the portable form, weights that multiply 8-bit
activations have max|·| / 63. Rounding is half to even (torch.round, ONNX Round). Gradients use the straight-through estimator
(Bengio et al. 2013). Nothing has state, so if pruning slices the weights, the scales follow. A linear layer's products are the
artifact's MatMulInteger's, to the last integer; its gradients are computed in bfloat16 if the processor supports it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from compression.models.linear_layers import matrix
from compression.quantization.integer_products import exact_product
from compression.quantization.precision import gradient_dtype
from compression.schema.schemes import Scheme

LEVELS = 127.0
PORTABLE_LEVELS = 63.0
"""Largest integer of a portable weight. x86 without VNNI adds two products of uint8 and int8 in 16 bits, which saturate above
32,767: 2 × 255 × 63 = 32,130 fits, 2 × 255 × 127 does not (ONNX Runtime's PR #12088; docs/decisions/0030)."""
SMALLEST_SCALE = 1e-12  #: prevents a division by zero in an all-zero row; the exporters use the same constant


def row_scales(x: Tensor, levels: float | Tensor = LEVELS) -> Tensor:
    """Return one scale per row. x: (..., features); levels: the largest integer, or that of each row, (..., 1) -> (..., 1)."""
    return (x.detach().abs().amax(dim=-1, keepdim=True) / levels).clamp_min(SMALLEST_SCALE)


def integer_rows(x: Tensor, levels: float | Tensor = LEVELS) -> tuple[Tensor, Tensor]:
    """Quantize each row to −levels … levels. x: (..., features) -> (int8 of x's shape, float32 scales (..., 1))."""
    scale = row_scales(x, levels)
    whole = (x.detach() / scale).round_().clamp_(-levels, levels)  # type: ignore[arg-type]  # numbers or tensors
    return whole.to(torch.int8), scale


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004 (passed for its gradient)
        return rounded.view_as(rounded)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 (autograd's signature)
        return grads[0], None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded`, with the gradient of x: the straight-through estimator. Both of the same shape."""
    out: Tensor = _StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return out


def fake_quantize_rows(x: Tensor, levels: float = LEVELS) -> Tensor:
    """Quantize and dequantize each row; the gradient is the identity. x: (..., features) -> same shape."""
    scale = row_scales(x, levels)
    return straight_through(x, (x.detach() / scale).round_().clamp_(-levels, levels).mul_(scale))


class _IntegerLinear(torch.autograd.Function):
    """x, weight, bias, levels -> the artifact's output; gradients are straight-through at rounded values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, levels: float) -> Tensor:
        rows, row_scale = integer_rows(x.reshape(-1, x.shape[-1]))
        columns, column_scale = integer_rows(weight, levels)
        ctx.save_for_backward(rows, row_scale, columns, column_scale)
        ctx.dtype = gradient_dtype(x.device)  # set here, since a device's backward pass runs in its own thread
        out = exact_product(rows, columns).float().mul_(row_scale).mul_(column_scale.t())
        if bias is not None:
            out.add_(bias)
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows, row_scale, columns, column_scale = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        dtype = ctx.dtype
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = (grad * column_scale.t()).to(dtype) @ columns.to(dtype)
            to_x = to_x.float().view(*grads[0].shape[:-1], columns.shape[1])
        if ctx.needs_input_grad[1]:
            to_weight = ((grad * row_scale).to(dtype).t() @ rows.to(dtype)).float()
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum(dim=0)
        return to_x, to_weight, to_bias, None


def integer_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, levels: float = LEVELS) -> Tensor:
    """Compute x·Wᵀ + b as the artifact does. x: (..., in), weight: (out, in) -> (..., out)."""
    out: Tensor = _IntegerLinear.apply(x, weight, bias, levels)  # type: ignore[no-untyped-call]
    return out


class SimulatedLinear(nn.Linear):
    """Base of all schemes' linear layers. Its scheme and `levels`, the largest integer, are no part of state dicts."""

    scheme: Scheme = "dynamic-int8"
    levels: float = LEVELS
    symmetric: bool = False  #: whether calibrated ranges lie around 0 (`static_int8`)

    def activation_integers(self, input: Tensor) -> Tensor | None:  # noqa: A002 (the name is nn.Linear's)
        """Return the input quantized to integers, in its shape; None if activations stay in floating point."""
        raise NotImplementedError


class FakeQuantLinear(SimulatedLinear):
    """nn.Linear that computes as the int8 artifact does. Same state dict, no additional state."""

    def activation_integers(self, input: Tensor) -> Tensor:  # noqa: A002
        """Quantize each row. (..., in) -> int8 of the same shape."""
        return integer_rows(input)[0]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """Compute the layer with integers. (..., in) -> (..., out)."""
        return integer_linear(input, matrix(self), self.bias, self.levels)


class FakeQuantEmbedding(nn.Embedding):
    """nn.Embedding with int8 rows; rounds only the rows it looks up. `levels`: as in `SimulatedLinear`."""

    levels: float = LEVELS

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Look up and round rows. ids: (...) -> (..., features)."""
        return fake_quantize_rows(super().forward(input), self.levels)


def levels_of(layer: nn.Module) -> float:
    """Return the largest integer of a layer's weights; LEVELS if the layer is not simulated."""
    levels: float = layer.levels if isinstance(layer, SimulatedLinear | FakeQuantEmbedding) else LEVELS
    return levels
