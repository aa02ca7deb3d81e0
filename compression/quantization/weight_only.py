"""weight-only-int8 and weight-only-int4: integer weights on disk, multiplied in floating point, symmetric.

int8 has one scale per output channel, max|·| / 127; int4 one per group of `group_size` inputs of an output channel, max|·| / 7;
the last group has the remaining inputs. Activations are not rounded, so no calibration is needed.
"""

import torch
from torch import Tensor
from torch.nn import functional

from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import LEVELS, SMALLEST_SCALE, SimulatedLinear, integer_rows, straight_through

INT4_LEVELS = 7.0


def grouped_integers(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Quantize to 4 bits. weight: (out, in) -> int8 (out, groups × group_size), −7 to 7; float32 scales (out, groups).

    groups = ⌈in / group_size⌉; the padding after the last input is 0.
    """
    weight = weight.detach()
    groups = -(-weight.shape[1] // group_size)
    filled = functional.pad(weight, (0, groups * group_size - weight.shape[1])).view(len(weight), groups, group_size)
    scales = (filled.abs().amax(dim=2) / INT4_LEVELS).clamp_min(SMALLEST_SCALE)
    whole = torch.round(filled / scales[..., None]).clamp(-INT4_LEVELS, INT4_LEVELS).to(torch.int8)
    return whole.view(len(weight), -1), scales


def dequantized_weights(weight: Tensor, group_size: int | None, levels: float | Tensor = LEVELS) -> Tensor:
    """Quantize and dequantize as the artifact does, to int8 without a `group_size`. (out, in) -> same, float32."""
    if group_size is None:
        whole, scale = integer_rows(weight, levels)
        return whole.float() * scale
    whole, scales = grouped_integers(weight, group_size)
    values = whole.view(len(weight), -1, group_size).float() * scales[..., None]
    return values.view(len(weight), -1)[:, : weight.shape[1]]


def fake_quantized_weights(weight: Tensor, group_size: int | None, levels: float | Tensor = LEVELS) -> Tensor:
    """Return `dequantized_weights` with a straight-through gradient."""
    return straight_through(weight, dequantized_weights(weight, group_size, levels))


class WeightOnlyLinear(SimulatedLinear):
    """nn.Linear with the artifact's weights. `group_size`: inputs that share a scale in int4, None for int8."""

    scheme = "weight-only-int8"
    group_size: int | None = None

    def activation_integers(self, input: Tensor) -> None:  # noqa: A002
        """Return None: activations are not rounded."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """Compute the layer with dequantized weights. (..., in) -> (..., out)."""
        return functional.linear(input, fake_quantized_weights(matrix(self), self.group_size, self.levels), self.bias)
