"""Writes a text model in a format of compressed-tensors, which transformers and vLLM open.

The linear layers of its blocks become integers or 8-bit floats. All else stays in bfloat16: tables, norms, biases, and the
linear layers outside the blocks, which config.json names under `ignore`. Weights are rounded by the largest one of each row or
group, as the schemes do: where a model simulates such integers, the file has the same ones with the same scales. 4-bit integers
whose groups readers lack are rounded anew. Layers that have 8 bits among others of 4 are a second group of config.json.
"""

import copy
import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import is_compressed_tensors_available

from compression.export.compressed_tensors.weights import (
    StoredWeight,
    float8_inputs,
    float8_weight,
    int4_weight,
    int8_weight,
    packed_int8_weight,
)
from compression.export.exporter import plain
from compression.export.transformers.exporter import ONE_SHARD, TransformersExporter
from compression.models.adapters.adapter import prefix
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.architectures.pruning_groups import layer_number
from compression.models.files import safetensors_layout
from compression.models.linear_layers import is_linear, is_transposed
from compression.quantization.dynamic_int8 import fake_quantize_rows, levels_of
from compression.quantization.fake_quantize import remove_fake_quantization, simulation_of
from compression.quantization.moe_layers import fused_expert_modules
from compression.quantization.weight_only import WeightOnlyLinear
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.recipe.base import Task
from compression.schema.schemes import Scheme

GROUP_SIZES = (128, 64, 32)  #: inputs that share a scale of 4-bit weights, as vLLM's fastest kernel reads them, largest first


class CompressedTensorsExporter(TransformersExporter):
    """What the formats have in common."""

    card = "compressed_tensors"
    library, needs = "transformers", "compressed-tensors"
    is_simulated = False  # tables are not rounded, and all else is bfloat16
    computes_in = torch.bfloat16
    writes_half = False
    format: ClassVar[str]  #: compressed-tensors' name of the files' layout
    precision: ClassVar[ArtifactPrecision]

    @abstractmethod
    def stored(self, layer: nn.Linear, model: nn.Module) -> StoredWeight:
        """Return a layer's weight as files hold it."""

    @abstractmethod
    def weight_arguments(self, model: nn.Module) -> dict[str, Any]:
        """Return compressed-tensors' arguments of the weights."""

    def groups(self, model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
        """Return which layers have which arguments of their weights. -> names or a class of layers, as readers match them"""
        return [("Linear", self.weight_arguments(model))]

    def input_arguments(self) -> dict[str, Any] | None:
        """Return compressed-tensors' arguments of the layers' inputs; None if they are not rounded."""
        return None

    def rounded_inputs(self, values: Tensor) -> Tensor:
        """Round the inputs of a layer as readers do. (..., features) -> same shape."""
        return values

    def hinders(self, model: nn.Module) -> str | None:
        """Return why there is no such form of the model, or why its files cannot be reopened here."""
        stated = self.stated(model) if isinstance(model, PreTrainedModel) else model
        if (reason := self.lacks(stated)) is not None:
            return reason
        if not is_compressed_tensors_available():
            return "The worker lacks the package compressed-tensors, with which transformers reopens the files."
        return super().hinders(model)

    def lacks(self, model: nn.Module) -> str | None:
        """Return why compressed-tensors has no form of the model."""
        if not isinstance(model, PreTrainedModel) or not hasattr(adapter_of(model), "block"):
            return "compressed-tensors has forms of decoders and encoders of text alone."
        if any(True for _ in fused_expert_modules(model)):
            return "Its experts' weights are in one tensor a layer, of which compressed-tensors has no form."
        if any(map(is_transposed, model.modules())):
            return "Its linear layers are of transformers' class Conv1D, which compressed-tensors leaves in floating point."
        return None

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write config.json and model.safetensors. Raises TypeError for a model that `lacks` names a reason for."""
        model = self.stated(model)
        if (reason := self.lacks(model)) is not None:
            raise TypeError(reason)
        twin = copy.deepcopy(model).to("cpu", torch.bfloat16).eval()
        remove_fake_quantization(twin)
        tensors = twin.state_dict()
        for name, layer in quantized(model):
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.{end}": part for end, part in self.stored(layer, model).parts.items()}
        transformers.utils.logging.disable_progress_bar()
        twin.save_pretrained(folder, state_dict=tensors, max_shard_size=ONE_SHARD)
        safetensors_layout.align(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**config, "quantization_config": self.arguments(model)}), "utf-8")

    def arguments(self, model: nn.Module) -> dict[str, Any]:
        """Return the `quantization_config` of config.json."""
        chosen = {name for name, _ in quantized(model)}
        alike = {"input_activations": self.input_arguments(), "output_activations": None, "format": self.format}
        groups = ({"targets": [which], "weights": weights, **alike} for which, weights in self.groups(model))
        return {
            "quant_method": "compressed-tensors",
            "format": self.format,
            "quantization_status": "compressed",
            "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
            "ignore": [name for name, layer in model.named_modules() if is_linear(layer) and name not in chosen],
        }

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the call of transformers."""
        return f"transformers.{heads.of_task(task).auto}.from_pretrained(folder) with compressed-tensors installed"

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return the precision of the weights, whatever the model simulates."""
        return self.precision

    def stored_as(self, model: nn.Module, precision: ArtifactPrecision) -> str:
        """Return the precision of the weights, and how many parameters stay in bfloat16."""
        inside = sum(layer.weight.numel() for _, layer in quantized(model))
        return f"{precision}, {sum(one.numel() for one in model.parameters()) - inside:,} parameters bfloat16"

    @torch.no_grad()
    def reference(self, model: nn.Module, *, int8: bool) -> nn.Module:  # noqa: ARG002
        """Return a float32 copy with the file's weights, which rounds the layers' inputs as readers do."""
        twin = plain(model)
        weights = {name: self.stored(layer, model).values for name, layer in quantized(model)}
        for name, layer in quantized(twin):
            layer.weight.copy_(weights[name])
            layer.register_forward_pre_hook(lambda _, given: (self.rounded_inputs(given[0]), *given[1:]))
        return twin

    def rounds_activations(self, model: nn.Module, *, int8: bool) -> bool:  # noqa: ARG002
        """Return whether readers round the layers' inputs."""
        return self.input_arguments() is not None


class Int8Exporter(CompressedTensorsExporter):
    """int8 weights, one scale per output channel; int8 activations, one scale per token."""

    format = "int-quantized"
    precision = "int8"

    def stored(self, layer: nn.Linear, model: nn.Module) -> StoredWeight:  # noqa: ARG002
        """Return int8 rows, within the range that the layer simulates."""
        return int8_weight(_float32(layer), levels_of(layer))

    def weight_arguments(self, model: nn.Module) -> dict[str, Any]:  # noqa: ARG002
        """Return those of int8 channels."""
        return _arguments("int", 8, strategy="channel")

    def input_arguments(self) -> dict[str, Any]:
        """Return those of int8 tokens."""
        return _arguments("int", 8, strategy="token", dynamic=True)

    def rounded_inputs(self, values: Tensor) -> Tensor:
        """Round to int8, row by row."""
        return fake_quantize_rows(values)


class Int4Exporter(CompressedTensorsExporter):
    """4-bit weights in groups of inputs, eight in a word; activations are not rounded."""

    format = "pack-quantized"
    precision = "int4"

    def lacks(self, model: nn.Module) -> str | None:
        """Return why compressed-tensors has no form of the model: also if no groups divide a layer's inputs."""
        if (reason := super().lacks(model)) is not None:
            return reason
        odd = [(name, layer) for name, layer in quantized(model) if layer.in_features % GROUP_SIZES[-1]]
        return f"The {odd[0][1].in_features} inputs of {odd[0][0]} are no whole groups of {GROUP_SIZES[-1]}." if odd else None

    def stored_as(self, model: nn.Module, precision: ArtifactPrecision) -> str:
        """Return the precision of the weights, and how many parameters have 8 bits or stay in bfloat16."""
        finer = _finer_layers(model)
        count = sum(layer.weight.numel() for name, layer in quantized(model) if layer_number(name) in finer)
        first, rest = super().stored_as(model, precision).split(", ", 1)
        return ", ".join([first, *([f"{count:,} parameters int8"] if count else []), rest])

    def stored(self, layer: nn.Linear, model: nn.Module) -> StoredWeight:
        """Return packed groups, or packed channels of a layer that has 8 bits."""
        finer = isinstance(layer, WeightOnlyLinear) and layer.group_size is None and _finer_layers(model)
        return packed_int8_weight(_float32(layer)) if finer else int4_weight(_float32(layer), *_groups(model))

    def groups(self, model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
        """Return the layers of 4 bits, and those of 8 if the model has some."""
        finer, four = _finer_layers(model), self.weight_arguments(model)
        if not finer:
            return [("Linear", four)]
        assert isinstance(model, PreTrainedModel)  # noqa: S101 (`lacks` says so of others)
        blocks = re.escape(f"{prefix(model)}{adapter_of(model).block}.")
        others = {number for name, _ in quantized(model) if (number := layer_number(name)) is not None} - finer
        each = ((others, four), (finer, _arguments("int", 8, strategy="channel")))
        return [(f"re:{blocks}({'|'.join(map(str, sorted(of)))})\\..*", weights) for of, weights in each if of]

    def weight_arguments(self, model: nn.Module) -> dict[str, Any]:
        """Return those of 4-bit groups."""
        return _arguments("int", 4, strategy="group", group_size=_groups(model)[0])


class Float8Exporter(CompressedTensorsExporter):
    """float8 (e4m3) weights, one scale per output channel; float8 activations, one scale per token."""

    format = "float-quantized"
    precision = "float8"

    def stored(self, layer: nn.Linear, model: nn.Module) -> StoredWeight:  # noqa: ARG002
        """Return float8 rows."""
        return float8_weight(_float32(layer))

    def weight_arguments(self, model: nn.Module) -> dict[str, Any]:  # noqa: ARG002
        """Return those of float8 channels."""
        return _arguments("float", 8, strategy="channel")

    def input_arguments(self) -> dict[str, Any]:
        """Return those of float8 tokens."""
        return _arguments("float", 8, strategy="token", dynamic=True)

    def rounded_inputs(self, values: Tensor) -> Tensor:
        """Round to float8, row by row."""
        return float8_inputs(values)


W8A8, W4A16, FP8 = Int8Exporter(), Int4Exporter(), Float8Exporter()


def quantized(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield (name, layer) of the linear layers in a model's blocks, simulated or not, in model order."""
    assert isinstance(model, PreTrainedModel)  # noqa: S101 (`hinders` says so of others)
    blocks = f"{prefix(model)}{adapter_of(model).block}."
    for name, layer in model.named_modules():
        if name.startswith(blocks) and isinstance(layer, nn.Linear):
            yield name, layer


def _float32(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().to("cpu", torch.float32)


def _finer_layers(model: nn.Module) -> set[int]:
    """Return the numbers of the layers that have 8 bits where others have 4."""
    simulation = simulation_of(model)
    numbers = map(layer_number, simulation.eight_bits) if simulation is not None else ()
    return {number for number in numbers if number is not None}


def _groups(model: nn.Module) -> tuple[int, int]:
    """Return the inputs that share a scale in the file, and those that do in the model: a group of it may become several."""
    simulation = simulation_of(model)
    trained = (simulation.group_size if simulation is not None else None) or 0
    trained = trained if trained >= GROUP_SIZES[-1] else 0
    common = math.gcd(trained, *(layer.in_features for _, layer in quantized(model)))
    size = next(size for size in GROUP_SIZES if common % size == 0)
    return size, trained or size


def _arguments(kind: str, bits: int, *, dynamic: bool = False, **how: Any) -> dict[str, Any]:
    return {"type": kind, "num_bits": bits, "symmetric": True, "dynamic": dynamic, **how}
