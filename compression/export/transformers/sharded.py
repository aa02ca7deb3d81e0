"""Quantize a checkpoint as it lies on disk, a few rows at a time: for models that memory does not hold.

The result is that of `transformers.write(model, folder, int8=True)`, tensor by tensor: integers need a row of a weight and
nothing else, and it leaves models with fused experts to this one. In memory are the model's skeleton, without any weights, and
one block of rows with what quantizing it takes, less than thirty-two times the block: half a gibibyte, where a shard of the
usual size has five.

Fused experts have the integers that linear layers of their own would have, those of 4 bits too in torchao's tensors of 8, of
which an expert can be taken. Stock code multiplies one expert after the other (`experts_implementation` of config.json; its
grouped product knows no integers). Matrices that stock code keeps in neither a linear layer nor an embedding nor as experts
(GPT-2's, routers) stay as they are in the file.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import quantize_
from transformers import PreTrainedModel, TorchAoConfig

from compression.export.transformers.torchao_tensors import (
    fused_experts,
    int4_groups,
    int4_groups_by_expert,
    int8_rows,
    torchao_scheme,
)
from compression.models.linear_layers import is_transposed
from compression.models.sharded_checkpoint import BLOCK, LARGEST_SHARD, PlannedTensor, SafetensorsReader, writing
from compression.models.skeleton import generation_of, skeleton, sources
from compression.quantization.dynamic_int8 import levels_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, remove_fake_quantization
from compression.schema.recipe.base import StreamedScheme
from compression.system.progress import run_silently

Form = Callable[[torch.Tensor], torch.Tensor]
"""What becomes of some rows of a tensor: (some, ...), as read -> the same shape, of torchao's types or of torch's."""


@dataclass(frozen=True)
class Streamed:
    """One tensor of the model: its shape, where its rows come from, in order, and what becomes of them."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    form: Form

    def parts(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the tensors that are stored for some rows, and what torchao says of them."""
        parts, metadata = flatten_tensor_state_dict({self.name: self.form(rows)})
        return parts, metadata

    def planned(self, dtype: torch.dtype) -> tuple[list[PlannedTensor], dict[str, str]]:
        """Say what will be stored, and what torchao says of it. dtype: of the rows."""
        # Names, types and torchao's words are those of what a single row becomes.
        parts, metadata = self.parts(torch.ones((*(1 for _ in self.shape[:-1]), *self.shape[-1:]), dtype=dtype))
        shapes = {name: (*self.shape[:-1], part.shape[-1]) if part.ndim > 1 else self.shape for name, part in parts.items()}
        return [PlannedTensor(name, part.dtype, shapes[name]) for name, part in parts.items()], metadata


def float32(rows: torch.Tensor) -> torch.Tensor:
    """Leave floating point as float32, and else what it is."""
    return rows.float() if rows.is_floating_point() else rows


def as_it_is(rows: torch.Tensor) -> torch.Tensor:
    """Leave it."""
    return rows


def _by_torchao(config: Any) -> Form:
    def form(rows: torch.Tensor) -> torch.Tensor:
        holder = nn.Module()
        holder.weight = nn.Parameter(rows.float(), requires_grad=False)
        quantize_(holder, config, filter_fn=lambda *_: True)
        found: torch.Tensor = holder.weight.data
        return found

    return form


@dataclass(frozen=True)
class Written:
    """What was written. unquantized: elements of matrices that stayed in floating point; dtype: what these are stored in."""

    bytes: int
    parameters: int
    unquantized: int
    dtype: str | None


def quantize(
    source: Path,
    place: Path,
    *,
    scheme: StreamedScheme = "dynamic-int8",
    group_size: int = 32,
    portable: bool = False,
    block: int = BLOCK,
    largest: int = LARGEST_SHARD,
) -> Written:
    """Do what `quantizing` says, at once."""
    asked = {"group_size": group_size, "portable": portable, "block": block, "largest": largest}
    return run_silently(quantizing(source, place, scheme=scheme, **asked))  # type: ignore[arg-type]


def quantizing(
    source: Path,
    place: Path,
    *,
    scheme: StreamedScheme = "dynamic-int8",
    group_size: int = 32,
    portable: bool = False,
    block: int = BLOCK,
    largest: int = LARGEST_SHARD,
    beside: Callable[[PreTrainedModel, Path], None] | None = None,
) -> Generator[tuple[int, int], None, Written]:
    """Write the integer form of the checkpoint in `source` as the folder `place`: config.json and safetensors.

    Every linear weight and every fused expert's matrix has one scale an output channel (weight-only-int4: one a group of
    `group_size` inputs), every table one a row; norms and biases are float32. Tied tables are untied: embeddings and head are
    read in different ways, so torchao's tensors differ. portable: as a recipe has it; block: bytes read at once; largest: bytes
    of tensors a file; beside: puts more files into the folder, before it appears, of which it is given the skeleton.

    Yields (elements written, of all) after each tensor. Raises what `skeleton`, `sources` and `shards.Checkpoint` do.
    """
    checkpoint = SafetensorsReader(source)
    model = skeleton(source)
    tensors, kept = plan_of(model, checkpoint, scheme, group_size, portable=portable)
    metadata: dict[str, str] = {}
    plan = []
    for tensor in tensors:
        planned, said = tensor.planned(checkpoint.dtype(tensor.sources[0]))
        metadata |= said
        plan.append(planned)
    metadata["tensor_names"] = json.dumps([tensor.name for tensor in tensors])
    total, done = sum(prod(tensor.shape) for tensor in tensors), 0
    with writing(place, plan, metadata=metadata, largest=largest) as shards:
        for tensor in tensors:
            for name in tensor.sources:
                for rows in checkpoint.rows(name, block):
                    for part, value in tensor.parts(rows)[0].items():
                        shards.put(part, value)
            done += prod(tensor.shape)
            yield done, total
        _write_configs(model, source, shards.folder, scheme, group_size)
        if beside is not None:
            beside(model, shards.folder)
    types = {str(checkpoint.dtype(tensor.sources[0])).removeprefix("torch.") for tensor in kept}
    return Written(
        bytes=sum(path.stat().st_size for path in place.glob("*.safetensors")),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        unquantized=sum(prod(tensor.shape) for tensor in kept),
        dtype=" and ".join(sorted(types)) or None,
    )


def plan_of(
    model: PreTrainedModel, checkpoint: SafetensorsReader, scheme: StreamedScheme, group_size: int, *, portable: bool = False
) -> tuple[list[Streamed], list[Streamed]]:
    """Say what becomes of each tensor, in model order, and which matrices stay in floating point."""
    layers = {name: layer for name, layer in quantizable(model) if not is_transposed(layer)}
    configs = torchao_scheme(model, scheme, group_size).fqn_to_config
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    simulation = Simulation(scheme=scheme, portable=portable)
    insert_fake_quantization(model, simulation=simulation)  # for the levels of each
    levels = {name: levels_of(layer) for name, layer in layers.items()}
    remove_fake_quantization(model)
    found, kept = [], []
    for name, places in sources(model, checkpoint).items():
        own = name.removesuffix(".weight")
        form = _form(configs.get(name), layers.get(own), group_size, simulation, levels.get(own, simulation.levels))
        stays = form is None and len(shapes[name]) > 1 and checkpoint.dtype(places[0]).is_floating_point
        found.append(Streamed(name, shapes[name], places, form or (as_it_is if stays else float32)))
        kept += found[-1:] if stays else []
    return found, kept


def _form(config: Any, layer: nn.Module | None, group_size: int, simulation: Simulation, levels: float) -> Form | None:
    """Return how a weight is quantized; None where it is not. layer: None of experts; levels: the largest integer of int8."""
    if config is None:
        return None
    dynamic, table = simulation.scheme == "dynamic-int8", isinstance(layer, nn.Embedding)
    if dynamic and not simulation.portable:
        return _by_torchao(config)
    if simulation.scheme == "weight-only-int4" and not table:
        grouped = int4_groups if layer is not None else int4_groups_by_expert
        return lambda rows: grouped(rows.float(), group_size)
    return lambda rows: int8_rows(rows.float(), levels, rounds=dynamic and not table)


def _write_configs(model: PreTrainedModel, source: Path, folder: Path, scheme: StreamedScheme, group_size: int) -> None:
    config = model.config
    config.tie_word_embeddings = False
    config.dtype = "float32"
    # Where nothing is named, stock code leaves out the last parameter: see `transformers.write`.
    config.quantization_config = TorchAoConfig(
        torchao_scheme(model, scheme, group_size), include_input_output_embeddings=True, modules_to_not_convert=[]
    )
    config.save_pretrained(folder)
    if fused_experts(model):
        path = folder / "config.json"
        said = {**json.loads(path.read_text("utf-8")), "experts_implementation": "eager"}
        path.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
    if model.can_generate():
        generation_of(model, source).save_pretrained(folder)
