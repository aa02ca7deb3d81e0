"""Our integers in torchao's tensors, and what torchao's configuration says of each weight of a model."""

import math
from collections import OrderedDict

import torch
from torch import nn
from torchao.quantization import (
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    PerGroup,
    PerRow,
)
from torchao.quantization.quantize_.workflows import Int8Tensor, QuantizeTensorToInt8Kwargs

from compression.models.linear_layers import is_transposed
from compression.quantization.dynamic_int8 import LEVELS, integer_rows
from compression.quantization.fake_quantize import quantizable
from compression.quantization.moe_layers import WEIGHTS, fused_expert_modules
from compression.quantization.weight_only import grouped_integers
from compression.schema.recipe.base import StreamedScheme

INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # torch 2.13 has it, its stubs have not


def torchao_scheme(model: nn.Module, scheme: StreamedScheme, group_size: int) -> FqnToConfig:
    """Say what torchao makes of each weight of a model. group_size: of weight-only-int4 alone."""
    # Weights by their full names: names of modules, and `_default`, would catch biases as well.
    found = OrderedDict()
    rows = Int8DynamicActivationInt8WeightConfig() if scheme == "dynamic-int8" else Int8WeightOnlyConfig()
    for name, layer in quantizable(model):
        if is_transposed(layer):
            continue  # torchao would take its inputs for outputs
        if isinstance(layer, nn.Embedding):
            found[f"{name}.weight"] = Int8WeightOnlyConfig()
        elif scheme == "weight-only-int4":
            found[f"{name}.weight"] = IntxWeightOnlyConfig(INT4, _groups(layer.weight, group_size))  # type: ignore[arg-type]
        else:
            found[f"{name}.weight"] = rows
    for name in fused_experts(model):
        groups = scheme == "weight-only-int4"
        found[name] = Int8WeightOnlyConfig(granularity=_groups(model.get_parameter(name), group_size)) if groups else rows
    return FqnToConfig(found)


def fused_experts(model: nn.Module) -> list[str]:
    """Name the fused tensors of a model's experts."""
    return [f"{name}.{key}" for name, _ in fused_expert_modules(model) for key in WEIGHTS]


def _groups(weight: torch.Tensor, group_size: int) -> PerGroup:
    """Return torchao's groups, which must divide a row's inputs where ours end with what is left."""
    # Of groups of one torchao finds no scales. What it makes is replaced, and its groups are then only those named.
    block = math.gcd(weight.shape[-1], group_size)
    return PerGroup(block if block > 1 else weight.shape[-1])


def int8_rows(weight: torch.Tensor, levels: float = LEVELS, *, rounds: bool = False) -> torch.Tensor:
    """Put our integers, one scale a row, into torchao's tensor. weight: (..., rows, features), float32 -> the same shape.

    levels: the largest integer; rounds: whether torchao is to round the activations that meet them, one scale a token.
    """
    whole, scale = integer_rows(weight, levels)
    zeros = torch.zeros(scale.shape, dtype=torch.int8)
    block = [*(1 for _ in weight.shape[:-1]), weight.shape[-1]]
    dynamic = QuantizeTensorToInt8Kwargs(PerRow()) if rounds else None
    found: torch.Tensor = Int8Tensor(whole, scale, block, torch.float32, zero_point=zeros, act_quant_kwargs=dynamic)
    return found


def int4_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Put our 4-bit integers, one scale a group of inputs, into torchao's tensor. weight: (out, in) -> the same shape."""
    whole, scales, block = _grouped(weight, group_size)
    zeros = torch.zeros(scales.shape, dtype=torch.int8)
    found: torch.Tensor = IntxUnpackedToInt8Tensor(whole, scales, zeros, INT4, [1, block], torch.float32, None)
    return found


def int4_groups_by_expert(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Put the same integers into torchao's tensor of 8 bits: of that of 4 no expert can be taken. weight: as `int8_rows`."""
    whole, scales, block = _grouped(weight.flatten(0, -2), group_size)
    places = weight.shape[:-1]
    zeros = torch.zeros((*places, scales.shape[1]), dtype=torch.int8)
    blocks = [*(1 for _ in places), block]
    found: torch.Tensor = Int8Tensor(
        whole.view(weight.shape), scales.view(zeros.shape), blocks, torch.float32, zero_point=zeros
    )
    return found


def _grouped(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return our 4-bit integers, the scales of torchao's groups, and these groups' size.

    weight: (out, in) -> (out, in), (out, groups), inputs in a group.
    """
    whole, scales = grouped_integers(weight, group_size)
    features = weight.shape[1]
    block = math.gcd(features, group_size)
    # A smaller group of torchao's has the scale of ours that it is a part of.
    scales = scales.repeat_interleave(group_size // block, dim=1)[:, : features // block]
    return whole[:, :features].contiguous(), scales.contiguous(), block
