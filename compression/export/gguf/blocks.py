"""Packs matrices into GGUF's blocks: 32 numbers of a row that share a scale of 16 bits.

The integers of a simulated layer are kept as they are where the blocks can hold them: then only their scales are rounded, to
float16. Other weights are rounded by the package gguf, the rounded weights of a simulated layer a second time.
"""

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor, nn

from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import FakeQuantEmbedding, SimulatedLinear, integer_rows, levels_of
from compression.quantization.weight_only import WeightOnlyLinear, dequantized_weights, grouped_integers

BLOCK = 32
Bytes = npt.NDArray[Any]


def kind_of(columns: int, wanted: Kind) -> Kind:
    """Return how a matrix with so many columns is stored: in float16 if they do not divide into blocks."""
    return Kind.F16 if wanted in (Kind.Q8_0, Kind.Q4_0) and columns % BLOCK else wanted


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight that a layer or a table computes with, rounded if it is simulated. -> (outputs, inputs), float32"""
    weight = matrix(module).detach().float()
    if isinstance(module, WeightOnlyLinear):
        return dequantized_weights(weight, module.group_size, module.levels)
    if isinstance(module, SimulatedLinear | FakeQuantEmbedding):
        return dequantized_weights(weight, None, levels_of(module))
    return weight


def pack(module: nn.Module, kind: Kind) -> Bytes:
    """Return the bytes of a layer's or a table's weight, row by row. -> (outputs, bytes of a row); numbers if it is F32 or F16.

    bfloat16 is of the float weights: a model has it in place of its integers.
    """
    if kind == Kind.BF16:
        return gguf.quantize(_array(matrix(module)), kind)
    found = _integers(module, kind)
    if found is None:
        return gguf.quantize(_array(weight_of(module)), kind)
    whole, scales = (_array(part) for part in found)
    blocks = whole.reshape(-1, BLOCK).astype(np.int8)
    wide = np.repeat(scales, whole.shape[1] // scales.shape[1] // BLOCK, axis=1).reshape(-1, 1)
    if kind == Kind.Q4_0:  # the first half of a block is in the low four bits
        shifted = (blocks + 8).astype(np.uint8)
        body = shifted[:, : BLOCK // 2] | (shifted[:, BLOCK // 2 :] << 4)
    else:
        body = blocks.view(np.uint8)
    return np.concatenate([wide.astype("<f2").view(np.uint8), body], axis=1).reshape(len(whole), -1)


def _integers(module: nn.Module, kind: Kind) -> tuple[Tensor, Tensor] | None:
    """Return a simulated module's integers (outputs, inputs) and scales (outputs, groups); None if blocks cannot have them."""
    if kind not in (Kind.Q8_0, Kind.Q4_0) or not isinstance(module, SimulatedLinear | FakeQuantEmbedding):
        return None
    weight = matrix(module).detach().float()
    if isinstance(module, WeightOnlyLinear) and module.group_size is not None:
        size = module.group_size
        return grouped_integers(weight, size) if size % BLOCK == 0 and weight.shape[1] % size == 0 else None
    return integer_rows(weight, levels_of(module)) if kind == Kind.Q8_0 else None


def _array(values: Tensor) -> Bytes:
    return np.ascontiguousarray(values.detach().cpu().numpy())


def unpack(packed: Bytes, kind: Kind) -> Tensor:
    """Return the numbers that a runtime reads in these bytes, float32."""
    return torch.from_numpy(np.array(gguf.dequantize(packed, kind), np.float32))
