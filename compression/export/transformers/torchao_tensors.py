"""Converts our integers to torchao's tensors, and builds torchao's configuration of a model."""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import cast

import torch
from torch import nn
from torchao import quantization as torchao
from torchao.core.config import AOBaseConfig
from torchao.quantization import Int8WeightOnlyConfig, PerGroup
from torchao.quantization.quantize_.workflows import Int8Tensor, QuantizeTensorToInt8Kwargs
from transformers import TorchAoConfig

from compression.models.linear_layers import is_transposed
from compression.quantization.dynamic_int8 import LEVELS, integer_rows
from compression.quantization.fake_quantize import quantizable
from compression.quantization.moe_layers import WEIGHTS, fused_expert_modules
from compression.quantization.weight_only import grouped_integers
from compression.schema.schemes import SCHEMES, Scheme, StreamedScheme

INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # torch 2.13 has it, its stubs have not


@dataclass(frozen=True)
class TorchaoWriter:
    """How a scheme's weights become torchao's. groups: inputs that share a scale; fused: whether it is a tensor of experts."""

    config: Callable[[torch.Tensor, int, bool], AOBaseConfig]  #: (weight, groups, fused) -> torchao's configuration
    tensor: Callable[[torch.Tensor, int, float, bool], torch.Tensor]
    """(weight, groups, largest integer, fused) -> torchao's tensor"""


def writer_of(scheme: Scheme) -> TorchaoWriter:
    """Return a scheme's writer."""
    return cast(TorchaoWriter, resolve_name(SCHEMES[scheme].torchao))


def torchao_scheme(
    model: nn.Module, scheme: StreamedScheme, group_size: int, eight_bits: Collection[str] = ()
) -> torchao.FqnToConfig:
    """Return torchao's configuration for each weight of a model. group_size: used by grouped schemes alone. eight_bits: layers
    that have 8 bits all the same.
    """
    # Full names of weights: names of modules, and `_default`, would also match biases.
    found, writer = OrderedDict(), writer_of(scheme)
    for name, layer in quantizable(model):
        if is_transposed(layer):
            continue  # torchao would treat its inputs as outputs
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        table = isinstance(layer, nn.Embedding)
        finer = table or name in eight_bits
        found[f"{name}.weight"] = Int8WeightOnlyConfig() if finer else writer.config(weight, group_size, False)
    for name in fused_experts(model):
        found[name] = writer.config(model.get_parameter(name), group_size, True)
    return torchao.FqnToConfig(found)


def torchao_config(
    model: nn.Module, scheme: StreamedScheme, group_size: int, eight_bits: Collection[str] = ()
) -> TorchAoConfig:
    """Return the quantization config with which transformers reads and writes a model; the others as of `torchao_scheme`."""
    # Without an explicit list, stock code skips the last parameter: a decoder's head, which has no bias after it.
    whole = torchao_scheme(model, scheme, group_size, eight_bits)
    return TorchAoConfig(whole, include_input_output_embeddings=True, modules_to_not_convert=[])


def fused_experts(model: nn.Module) -> list[str]:
    """Return the names of the fused tensors of a model's experts."""
    return [f"{name}.{key}" for name, _ in fused_expert_modules(model) for key in WEIGHTS]


def _groups(weight: torch.Tensor, group_size: int) -> PerGroup:
    """Return torchao's groups, which must divide a row's inputs; our last group may be smaller than the others."""
    # torchao finds no scales for groups of one input. Its tensors are replaced later, so only the name of its groups stays.
    block = math.gcd(weight.shape[-1], group_size)
    return PerGroup(block if block > 1 else weight.shape[-1])


def int8_rows(weight: torch.Tensor, levels: float = LEVELS, *, rounds: bool = False) -> torch.Tensor:
    """Return our integers, one scale per row, as torchao's tensor: (..., rows, features), float32 -> the same shape. levels:
    the largest integer; rounds: whether torchao rounds the activations, with one scale per token.
    """
    whole, scale = integer_rows(weight, levels)
    zeros = torch.zeros(scale.shape, dtype=torch.int8)
    block = [*(1 for _ in weight.shape[:-1]), weight.shape[-1]]
    dynamic = QuantizeTensorToInt8Kwargs(torchao.PerRow()) if rounds else None
    return cast(torch.Tensor, Int8Tensor(whole, scale, block, torch.float32, zero_point=zeros, act_quant_kwargs=dynamic))


def int4_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return our 4-bit integers, one scale per group of inputs, as torchao's tensor. (out, in) -> the same shape."""
    whole, scales, block = _grouped(weight, group_size)
    zeros = torch.zeros(scales.shape, dtype=torch.int8)
    return cast(torch.Tensor, torchao.IntxUnpackedToInt8Tensor(whole, scales, zeros, INT4, [1, block], torch.float32, None))


def int4_groups_by_expert(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return our 4-bit integers in torchao's 8-bit tensor (as `int8_rows`), of which a single expert can be selected."""
    whole, scales, block = _grouped(weight.flatten(0, -2), group_size)
    places = weight.shape[:-1]
    zeros = torch.zeros((*places, scales.shape[1]), dtype=torch.int8)
    blocks = [*(1 for _ in places), block]
    found: torch.Tensor = Int8Tensor(
        whole.view(weight.shape), scales.view(zeros.shape), blocks, torch.float32, zero_point=zeros
    )
    return found


def _grouped(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return our 4-bit integers, (out, in), the scales of torchao's groups, (out, groups), and the inputs per group."""
    whole, scales = grouped_integers(weight, group_size)
    features = weight.shape[1]
    block = math.gcd(features, group_size)
    # A smaller group of torchao has the scale of our group that contains it.
    scales = scales.repeat_interleave(group_size // block, dim=1)[:, : features // block]
    return whole[:, :features].contiguous(), scales.contiguous(), block


def _grouped_config(weight: torch.Tensor, groups: int, fused: bool) -> AOBaseConfig:
    size = _groups(weight, groups)
    return Int8WeightOnlyConfig(granularity=size) if fused else torchao.IntxWeightOnlyConfig(INT4, size)


DYNAMIC = TorchaoWriter(
    lambda *_: torchao.Int8DynamicActivationInt8WeightConfig(),
    lambda weight, _, levels, __: int8_rows(weight, levels, rounds=True),
)
WEIGHT_ONLY = TorchaoWriter(lambda *_: Int8WeightOnlyConfig(), lambda weight, _, levels, __: int8_rows(weight, levels))
GROUPED = TorchaoWriter(
    _grouped_config, lambda weight, groups, _, fused: (int4_groups_by_expert if fused else int4_groups)(weight, groups)
)
