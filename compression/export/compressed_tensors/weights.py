"""The weights of compressed-tensors' formats: integers or 8-bit floats with their scales, symmetric, as its files hold them.

The formats are those of compressed-tensors 0.15 to 0.20: a layer's `weight` or `weight_packed`, its `weight_scale`, and the
`weight_shape` of what is packed. Scales are max|·| of a row or group, divided by the largest number of the type.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compression.quantization.dynamic_int8 import SMALLEST_SCALE, integer_rows
from compression.quantization.weight_only import grouped_integers

FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = torch.finfo(FLOAT8).max  #: 448
WORD = 32  #: bits in which several integers lie


@dataclass(frozen=True)
class StoredWeight:
    """A layer's weight as files hold it."""

    parts: dict[str, Tensor]  #: by the end of their names: "weight_scale"
    values: Tensor  #: what they stand for: (out, in), float32


def int8_weight(weight: Tensor, levels: float) -> StoredWeight:
    """Quantize to int8 with one scale per output channel. weight: (out, in); levels: the largest integer."""
    whole, scale = integer_rows(weight, levels)
    return StoredWeight({"weight": whole, "weight_scale": scale}, whole.float() * scale)


def packed_int8_weight(weight: Tensor) -> StoredWeight:
    """Quantize to int8 with one scale per output channel, four in a word, as layers of 8 bits lie among others of 4."""
    whole, scale = integer_rows(weight)
    parts = {"weight_packed": packed(whole, 8), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    return StoredWeight(parts, whole.float() * scale)


def float8_weight(weight: Tensor) -> StoredWeight:
    """Round to float8 (e4m3) with one scale per output channel. weight: (out, in)"""
    rounded, scale = _float8(weight)
    return StoredWeight({"weight": rounded, "weight_scale": scale}, rounded.float() * scale)


def float8_inputs(values: Tensor) -> Tensor:
    """Round activations to float8 with one scale per token, and back. (..., features) -> same shape."""
    rounded, scale = _float8(values)
    return rounded.float() * scale


def int4_weight(weight: Tensor, group_size: int, scaled: int) -> StoredWeight:
    """Quantize to 4 bits with one scale per group of inputs. weight: (out, in)

    group_size: of the file, which divides the inputs; scaled: inputs that share a scale in the model, a multiple of it.
    """
    outputs, inputs = weight.shape
    whole, scales = grouped_integers(weight, scaled)
    # The last group of the model may have fewer inputs: what lies behind them is cut off.
    whole = whole[:, :inputs]
    scales = scales.repeat_interleave(scaled // group_size, dim=1)[:, : inputs // group_size].contiguous()
    values = (whole.view(outputs, -1, group_size).float() * scales[..., None]).view(outputs, inputs)
    parts = {"weight_packed": packed(whole), "weight_scale": scales, "weight_shape": torch.tensor(weight.shape)}
    return StoredWeight(parts, values)


def packed(whole: Tensor, bits: int = 4) -> Tensor:
    """Pack integers into words, the first in the lowest bits. int8 (out, in), −8 to 7 in 4 bits -> int32 (out, in · bits / 32).

    They are stored without sign, half of their range added to each: 8 in 4 bits.
    """
    unsigned = (whole.to(torch.int64) + (1 << (bits - 1))).view(len(whole), -1, WORD // bits)
    words = (unsigned << torch.arange(0, WORD, bits)).sum(dim=-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _float8(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.detach()
    scale = (values.abs().amax(dim=-1, keepdim=True) / LARGEST_FLOAT8).clamp_min(SMALLEST_SCALE)
    return (values / scale).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(FLOAT8), scale
