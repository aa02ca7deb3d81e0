"""Writes a model as a checkpoint that stock transformers opens, with torchao's integers.

- dynamic-int8: torchao's nearest scheme is also symmetric per token and per output channel, but it divides by 127.5 where we
  divide by 127. Its logits therefore differ from the simulated ones by rounding, and the artifact has a separate score. In the
  portable form the weights are our integers, within ±63; torchao rounds only the activations.
- static-int8: stock from_pretrained (transformers 5.24) neither writes torchao's configuration with calibrated scales nor
  reads them back, so the checkpoint is that of dynamic-int8, with a separate score.
- weight-only-int8, weight-only-int4: our integers and scales in torchao's tensors, so the logits are the simulated ones.
  torchao packs 4 bits for accelerators only; its form for CPUs holds each integer in a byte.

`sharded` writes fused experts tensor by tensor, because stock code does not quantize them. GPT-2's matrices (Conv1D) stay in
float32: their layers add and multiply in one operation, which torchao's int8 lacks. Such a checkpoint is called mixed, and
its figures state how many parameters stay in float32.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from torchao.quantization.quantize_.workflows import Int8Tensor
from transformers import PreTrainedModel

from compression.export.exporter import Exporter
from compression.export.transformers import sharded
from compression.export.transformers.torchao_tensors import fused_experts, int8_rows, torchao_config, writer_of
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.files import safetensors_layout
from compression.models.linear_layers import is_transposed
from compression.quantization.dynamic_int8 import SimulatedLinear, levels_of
from compression.quantization.fake_quantize import DYNAMIC, Simulation, quantizable, remove_fake_quantization, simulation_of
from compression.schema.artifact_formats import INTEGERS, ArtifactPrecision
from compression.schema.recipe.base import Task
from compression.schema.schemes import SCHEMES, Scheme

FILE = "model.safetensors"
ONE_SHARD = 64 * 10**9  #: bytes; all weights go to one file, so its size is the artifact's size


class TransformersExporter(Exporter):
    """Checkpoints for transformers, with torchao's tensors for integers."""

    rounding_noise = 4.0
    """torchao computes different integers: it divides by 127.5, so each row's largest element is half a step off. In narrow
    layers this weighs more than all other rounding. Its distance is that of two different quantizations."""
    needs = "torchao"
    writes_half = True
    quantizes_transposed = False
    packs_integers = False

    def hinders(self, model: nn.Module) -> str | None:
        """Return why transformers has no such model, or not with its integers."""
        if not isinstance(model, PreTrainedModel):
            return None
        found = adapter_of(model).stock(model)
        if isinstance(found, str):
            return found
        lost = simulation_of(model) is not None and simulation_of(found) is None
        return "It has no form of a network's integers." if lost else None

    def stated(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with layers of one width. A network becomes one of transformers' own as it is written."""
        return adapter_of(model).evened(model)

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write config.json and model.safetensors. Raises TypeError for a model that `hinders` names a reason for."""
        stock = adapter_of(model).stock(model)
        if isinstance(stock, str):
            raise TypeError(stock)
        write_transformers(stock, folder, int8=precision in INTEGERS, half=precision == "bfloat16")
        safetensors_layout.align(folder)

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the call of transformers."""
        needs = " with torchao installed" if precision in INTEGERS else ""
        return f"transformers.{heads.of_task(task).auto}.from_pretrained(folder){needs}"

    def config(self, model: PreTrainedModel, folder: Path, max_length: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the config that lies beside the weights. tokenizer_config.json has max_length."""
        return cast(dict[str, Any], json.loads((folder / "config.json").read_text("utf-8")))

    def trained_as_shipped(self, precision: ArtifactPrecision, simulation: Simulation | None) -> bool:
        """Return whether the checkpoint has the integers of training: torchao's own differ, and so do its ranges."""
        if simulation is not None:
            scheme = SCHEMES[simulation.scheme]
            if scheme.calibrated or (scheme.rounds_activations and not simulation.portable):
                return False
        return super().trained_as_shipped(precision, simulation)

    def reads_as_filed(self, folder: Path) -> bool:
        """Return whether stock AutoTokenizer tokenizes texts as tokenizer.json does."""
        return not (folder / "tokenizer.json").is_file() or loading.reads_as_filed(folder)


class HalfExporter(TransformersExporter):
    """Checkpoints in bfloat16 of the float32 weights, for tools and devices that have no use for our integers."""

    library, needs = "transformers", ""
    writes_half = False

    def hinders(self, model: nn.Module) -> str | None:
        """Return why transformers has no such model."""
        found = adapter_of(model).stock(_in_float(model)) if isinstance(model, PreTrainedModel) else None
        return found if isinstance(found, str) else None

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write config.json and model.safetensors. Raises TypeError for a model that `hinders` names a reason for."""
        super().write(_in_float(model), folder, precision)

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return bfloat16."""
        return "bfloat16"


EXPORTER, HALF = TransformersExporter(), HalfExporter()


def _in_float(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without simulated integers."""
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    remove_fake_quantization(twin)
    return twin


def write_transformers(model: nn.Module, folder: Path, *, int8: bool, half: bool = False) -> Path:
    """Write config.json and model.safetensors into `folder` and return the weights' path. Does not change the model. int8:
    write the integers that `model` simulates, else dynamic-int8. half: write bfloat16, except what stock code keeps in float32
    (routers). Raises RuntimeError if torchao leaves an nn.Linear or an embedding in floating point.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    if int8:
        untie(twin)
    simulation = simulation_of(twin) or DYNAMIC
    scheme = SCHEMES[simulation.scheme].uncalibrated or simulation.scheme
    size = simulation.group_size or 1
    turned = {name: layer for name, layer in quantizable(twin) if not is_transposed(layer)}
    ours = int8 and (simulation.portable or not SCHEMES[scheme].rounds_activations)
    own = {name: _own(layer, size) for name, layer in turned.items()} if ours else {}
    remove_fake_quantization(twin)
    transformers.utils.logging.disable_progress_bar()
    if not int8 and not half:
        twin.save_pretrained(folder, max_shard_size=ONE_SHARD)  # type: ignore[operator]  # a PreTrainedModel's
        return folder / FILE
    # transformers rounds while it loads, so the weights go through a folder next to the target, where there is room.
    passage = Path(tempfile.mkdtemp(prefix=".float32-", dir=folder.parent))
    try:
        twin.save_pretrained(passage)  # type: ignore[operator]
        if half:
            rounded = type(twin).from_pretrained(passage, dtype=torch.bfloat16, local_files_only=True)  # type: ignore[attr-defined]
            rounded.save_pretrained(folder, max_shard_size=ONE_SHARD)
            return folder / FILE
        if fused_experts(twin):
            # Stock code reads fused experts that are integers, but does not quantize them.
            sharded.quantize(
                passage, passage / "made", scheme=scheme, group_size=size, portable=simulation.portable, largest=ONE_SHARD
            )
            folder.mkdir(exist_ok=True)
            for path in (passage / "made").iterdir():
                path.rename(folder / path.name)
            return folder / FILE
        config = torchao_config(twin, scheme, size, simulation.eight_bits)
        quantized = type(twin).from_pretrained(  # type: ignore[attr-defined]
            passage, quantization_config=config, dtype=torch.float32, local_files_only=True
        )
    finally:
        shutil.rmtree(passage)
    kinds = (Int8Tensor, IntxUnpackedToInt8Tensor)
    layers = {name: layer for name, layer in quantizable(quantized) if not is_transposed(layer)}
    missed = [name for name, layer in layers.items() if not isinstance(layer.weight, kinds)]
    if missed:
        raise RuntimeError(f"torchao left in floating point: {', '.join(missed)}")
    for name, weight in own.items():
        quantized.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    quantized.save_pretrained(folder, max_shard_size=ONE_SHARD)
    return folder / FILE


def untie(model: nn.Module) -> None:
    """Give a language model's output layer separate weights: it cannot share one of torchao's tensors with a table."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if head is not None and head.weight is model.get_input_embeddings().weight:  # type: ignore[operator]
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False  # type: ignore[union-attr]


def _own(layer: nn.Module, group_size: int) -> torch.Tensor:
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    if not isinstance(layer, SimulatedLinear):
        return int8_rows(weight, levels_of(layer))
    return writer_of(layer.scheme).tensor(weight, group_size, layer.levels, False)
