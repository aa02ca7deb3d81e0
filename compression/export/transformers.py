"""Write a classifier as a checkpoint that stock transformers opens, with torchao's integers.

- dynamic-int8: torchao's nearest scheme is symmetric per token and per output channel too, but it divides by 127.5 where we
  divide by 127: its answers are not the simulated ones to the last rounding. Such an artifact has a score of its own.
- static-int8: stock from_pretrained (transformers 5.24) neither writes torchao's configuration with calibrated scales nor
  reads them back, so the checkpoint is that of dynamic-int8, with a score of its own.
- weight-only-int8, weight-only-int4: our integers and scales in torchao's tensors, so the answers are the simulated ones.
  torchao packs 4 bits for accelerators only; its form for CPUs holds each in a byte.

Fused experts stay in float32, and so do GPT-2's matrices, which lie the other way round (Conv1D): torchao would round them by
their inputs. How much that is, an artifact's figures say.
"""

import copy
import math
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from torch import nn
from torchao.quantization import (
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    PerGroup,
)
from torchao.quantization.quantize_.workflows import Int8Tensor
from transformers import TorchAoConfig

from compression import numerics
from compression.numerics import WeightOnlyLinear

FILE = "model.safetensors"
INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # torch 2.13 has it, its stubs have not
ONE_SHARD = "64GB"
"""All weights go to one file, so that its bytes are the artifact's."""


def write(model: nn.Module, folder: Path, *, int8: bool, half: bool = False) -> Path:
    """Write config.json and model.safetensors into `folder` and return the weights' path. The model itself stays as it is.

    int8 writes the integers that are simulated in `model`, dynamic-int8 where none are; half the weights in bfloat16, but for
    those that stock code keeps in float32 (routers); neither, all in float32. Raises RuntimeError where torchao left an
    nn.Linear or an embedding in floating point.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    if int8:
        untie(twin)
    simulated = {name: layer for name, layer in numerics.simulated_layers(twin) if isinstance(layer, WeightOnlyLinear)}
    turned = {name: layer for name, layer in numerics.quantizable(twin) if not numerics.is_transposed(layer)}
    own = {name: _own(layer) for name, layer in turned.items()} if simulated else {}
    scheme = torchao_scheme(twin, {name: layer.group_size for name, layer in simulated.items()})
    numerics.remove(twin)
    transformers.utils.logging.disable_progress_bar()
    if not int8 and not half:
        twin.save_pretrained(folder, max_shard_size=ONE_SHARD)  # type: ignore[operator]  # a PreTrainedModel's
        return folder / FILE
    # transformers rounds while it loads, so the weights go through a folder; beside the target, where there is room.
    passage = Path(tempfile.mkdtemp(prefix=".float32-", dir=folder.parent))
    try:
        twin.save_pretrained(passage)  # type: ignore[operator]
        if half:
            rounded = type(twin).from_pretrained(passage, dtype=torch.bfloat16, local_files_only=True)  # type: ignore[attr-defined]
            rounded.save_pretrained(folder, max_shard_size=ONE_SHARD)
            return folder / FILE
        quantized = type(twin).from_pretrained(  # type: ignore[attr-defined]
            passage,
            # Where nothing is named, stock code leaves out the last parameter: a decoder's head, which has no bias behind it.
            quantization_config=TorchAoConfig(scheme, include_input_output_embeddings=True, modules_to_not_convert=[]),
            dtype=torch.float32,
            local_files_only=True,
        )
    finally:
        shutil.rmtree(passage)
    kinds = (Int8Tensor, IntxUnpackedToInt8Tensor)
    layers = {name: layer for name, layer in numerics.quantizable(quantized) if not numerics.is_transposed(layer)}
    missed = [name for name, layer in layers.items() if not isinstance(layer.weight, kinds)]
    if missed:
        raise RuntimeError(f"torchao left in floating point: {', '.join(missed)}")
    for name, weight in own.items():
        quantized.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    quantized.save_pretrained(folder, max_shard_size=ONE_SHARD)
    return folder / FILE


def untie(model: nn.Module) -> None:
    """Give a language model's output layer weights of its own: torchao's tensors cannot be shared by a table and a layer."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if head is not None and head.weight is model.get_input_embeddings().weight:  # type: ignore[operator]
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False  # type: ignore[union-attr]


def torchao_scheme(model: nn.Module, weight_only: Mapping[str, int | None]) -> FqnToConfig:
    """Say what torchao makes of each weight of a model. weight_only: layer → group size, None for int8."""
    # Weights by their full names: names of modules, and `_default`, would catch biases as well.
    found = OrderedDict()
    for name, layer in numerics.quantizable(model):
        if numerics.is_transposed(layer):
            continue  # torchao would take its inputs for outputs
        group_size = weight_only.get(name)
        if group_size is not None:
            # Of groups of one torchao finds no scales. `_own` replaces what it makes, whose groups are then only those named.
            block = _block(layer, group_size)
            found[f"{name}.weight"] = IntxWeightOnlyConfig(INT4, PerGroup(block if block > 1 else int(layer.in_features)))  # type: ignore[arg-type]
        elif isinstance(layer, nn.Embedding) or name in weight_only:
            found[f"{name}.weight"] = Int8WeightOnlyConfig()
        else:
            found[f"{name}.weight"] = Int8DynamicActivationInt8WeightConfig()
    return FqnToConfig(found)


def _block(layer: nn.Module, group_size: int) -> int:
    """Return the size of torchao's groups, which must divide a layer's inputs where ours end with what is left."""
    return math.gcd(int(layer.in_features), group_size)  # type: ignore[arg-type]


def int8_rows(weight: torch.Tensor) -> torch.Tensor:
    """Put our integers, one scale a row, into torchao's tensor. weight: (..., rows, features), float32 -> the same shape."""
    whole, scale = numerics.integers(weight)
    zeros = torch.zeros(scale.shape, dtype=torch.int8)
    block = [*(1 for _ in weight.shape[:-1]), weight.shape[-1]]
    found: torch.Tensor = Int8Tensor(whole, scale, block, torch.float32, zero_point=zeros)
    return found


def _own(layer: nn.Module) -> torch.Tensor:
    """Put the integers and scales of a table or a weight-only layer into torchao's tensor."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    if not isinstance(layer, WeightOnlyLinear) or layer.group_size is None:
        return int8_rows(weight)
    return int4_groups(weight, layer.group_size)


def int4_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Put our 4-bit integers, one scale a group of inputs, into torchao's tensor. weight: (out, in) -> the same shape."""
    whole, scales = numerics.grouped_integers(weight, group_size)
    features = weight.shape[1]
    block = math.gcd(features, group_size)
    # A smaller group of torchao's has the scale of ours that it is a part of.
    scales = scales.repeat_interleave(group_size // block, dim=1)[:, : features // block]
    found: torch.Tensor = IntxUnpackedToInt8Tensor(
        whole[:, :features].contiguous(),
        scales.contiguous(),
        torch.zeros(scales.shape, dtype=torch.int8),
        INT4,
        [1, block],
        torch.float32,
        None,
    )
    return found
