"""weight-only-int8 and weight-only-int4: integer weights on disk, multiplied in floating point.

int8 has one scale per output channel, max|·| / 127. int4 has one scale per group of `group_size` inputs of an output channel,
max|·| / 7; the last group of a channel has the remaining inputs. Both are symmetric. Activations are not rounded, so no
calibration is needed.
"""

import torch
from torch import Tensor
from torch.nn import functional

from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import LEVELS, SMALLEST_SCALE, SimulatedLinear, integer_rows

INT4_LEVELS = 7.0


def grouped_integers(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Quantize to 4 bits.

    weight: (out, in) -> int8 (out, groups × group_size), −7 to 7; float32 scales (out, groups).
    groups = ⌈in / group_size⌉; the padding after the last input is 0.
    """
    weight = weight.detach()
    groups = -(-weight.shape[1] // group_size)
    filled = functional.pad(weight, (0, groups * group_size - weight.shape[1])).view(len(weight), groups, group_size)
    scales = (filled.abs().amax(dim=2) / INT4_LEVELS).clamp_min(SMALLEST_SCALE)
    whole = torch.round(filled / scales[..., None]).clamp(-INT4_LEVELS, INT4_LEVELS).to(torch.int8)
    return whole.view(len(weight), -1), scales


def dequantized_weights(weight: Tensor, group_size: int | None, levels: float = LEVELS) -> Tensor:
    """Quantize and dequantize as the artifact does. weight: (out, in) -> the same shape, float32.

    group_size None: int8, with `levels` as the largest integer.
    """
    if group_size is None:
        whole, scale = integer_rows(weight, levels)
        return whole.float() * scale
    whole, scales = grouped_integers(weight, group_size)
    values = whole.view(len(weight), -1, group_size).float() * scales[..., None]
    return values.view(len(weight), -1)[:, : weight.shape[1]]


class _PassThrough(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004 (passed for its gradient)
        return rounded.view_as(rounded)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 (autograd's signature)
        return grads[0], None


def fake_quantized_weights(weight: Tensor, group_size: int | None) -> Tensor:
    """Return `dequantized_weights` with a straight-through gradient."""
    found: Tensor = _PassThrough.apply(weight, dequantized_weights(weight, group_size))  # type: ignore[no-untyped-call]
    return found


class WeightOnlyLinear(SimulatedLinear):
    """nn.Linear with the artifact's weights; their gradient passes straight through the rounding.

    `group_size`: inputs that share a scale in int4, or None for int8. It is an attribute, so that state dicts keep their keys.
    """

    scheme = "weight-only-int8"
    group_size: int | None = None

    def activation_integers(self, input: Tensor) -> None:  # noqa: A002
        """Return None: activations are not rounded."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """Compute the layer with dequantized weights. (..., in) -> (..., out)."""
        return functional.linear(input, fake_quantized_weights(matrix(self), self.group_size), self.bias)
