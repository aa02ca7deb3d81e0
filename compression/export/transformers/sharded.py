"""Quantizes a checkpoint on disk, a few rows at a time, for models that do not fit in memory, and compares both.

The result equals that of `write_transformers(model, folder, int8=True)`, tensor by tensor, because quantizing a row needs only
this row. Memory holds the model's skeleton, without any weights, and one block of rows with the temporary values of its
quantization: together less than thirty-two times the block, half a gibibyte, while a shard of the usual size has five.

Fused experts, also of models in memory, get the integers that separate linear layers would have. Even 4-bit integers are in
torchao's 8-bit tensors, of which a single expert can be selected. Stock code multiplies one expert after the other
(`experts_implementation` of config.json), because its grouped product does not support integers. Matrices that stock code keeps
in no linear layer, embedding or experts (GPT-2's, routers) stay as they are in the file.

Such a model cannot be verified by its logits (`verify`), so its files are compared: every integer, multiplied by its scale,
with the weight that it represents.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import quantize_
from transformers import PreTrainedModel

from compression.export.transformers.torchao_tensors import fused_experts, int8_rows, torchao_config, torchao_scheme, writer_of
from compression.models.linear_layers import is_transposed
from compression.models.sharded_checkpoint import BLOCK, LARGEST_SHARD, PlannedTensor, SafetensorsReader, writing
from compression.models.skeleton import generation_of, skeleton, sources
from compression.quantization.dynamic_int8 import levels_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, remove_fake_quantization
from compression.schema.errors import ExportMismatch
from compression.schema.schemes import SCHEMES, StreamedScheme
from compression.system.progress import run_silently

HALF = 0.501  #: largest change of a weight, in scales: half a step from rounding, plus the error of float32
Form = Callable[[torch.Tensor], torch.Tensor]
"""Converts some rows of a tensor: (some, ...), as read -> the same shape, in one of torchao's or torch's types."""


@dataclass(frozen=True)
class Streamed:
    """A tensor of the model: its shape, its rows' source tensors in order, and the rows' conversion."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    form: Form

    def parts(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the tensors that are stored for some rows, and torchao's metadata of them."""
        return cast(tuple[dict[str, torch.Tensor], dict[str, str]], flatten_tensor_state_dict({self.name: self.form(rows)}))

    def planned(self, dtype: torch.dtype) -> tuple[list[PlannedTensor], dict[str, str]]:
        """Return the tensors that will be stored, and torchao's metadata of them. dtype: the type of the rows."""
        # Names, types and metadata are those of one converted row.
        parts, metadata = self.parts(torch.ones((*(1 for _ in self.shape[:-1]), *self.shape[-1:]), dtype=dtype))
        shapes = {name: (*self.shape[:-1], part.shape[-1]) if part.ndim > 1 else self.shape for name, part in parts.items()}
        return [PlannedTensor(name, part.dtype, shapes[name]) for name, part in parts.items()], metadata


def float32(rows: torch.Tensor) -> torch.Tensor:
    """Return floating-point rows as float32, and other rows unchanged."""
    return rows.float() if rows.is_floating_point() else rows


def _by_torchao(config: Any) -> Form:
    def form(rows: torch.Tensor) -> torch.Tensor:
        holder = nn.Module()
        holder.weight = nn.Parameter(rows.float(), requires_grad=False)
        quantize_(holder, config, filter_fn=lambda *_: True)
        return holder.weight.data

    return form


@dataclass(frozen=True)
class Written:
    """Figures of a written checkpoint. unquantized: elements of matrices that stayed in floating point, of type dtype."""

    bytes: int
    parameters: int
    unquantized: int
    dtype: str | None


def quantize(source: Path, place: Path, **options: Any) -> Written:
    """Run `quantizing` with its options to its end, without progress."""
    return run_silently(quantizing(source, place, **options))


def quantizing(
    source: Path,
    place: Path,
    *,
    scheme: StreamedScheme = "dynamic-int8",
    group_size: int = 32,
    portable: bool = False,
    block: int = BLOCK,
    largest: int = LARGEST_SHARD,
) -> Generator[tuple[int, int], None, Written]:
    """Quantize the checkpoint in `source`; write config.json and safetensors to the folder `place`.

    Every linear weight and fused expert's matrix has one scale per output channel (weight-only-int4: per group of `group_size`
    inputs), every table one per row; norms and biases are float32. Tied tables are untied: as torchao's tensors, embedding and
    head differ. portable: the recipe's `quantize.portable`; block: bytes read at once; largest: bytes of tensors per file;
    beside: writes more files to the folder before it appears. Yields (elements written, total) after each tensor. Raises the
    errors of `skeleton`, `sources` and `SafetensorsReader`.
    """
    checkpoint = SafetensorsReader(source)
    model = skeleton(source)
    tensors, kept = plan_of(model, checkpoint, scheme, group_size, portable=portable)
    metadata: dict[str, str] = {}
    plan = []
    for tensor in tensors:
        planned, own = tensor.planned(checkpoint.dtype(tensor.sources[0]))
        metadata |= own
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
    """Return each tensor's plan, in model order, and the matrices that stay in floating point."""
    layers = {name: layer for name, layer in quantizable(model) if not is_transposed(layer)}
    configs = torchao_scheme(model, scheme, group_size).fqn_to_config
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    simulation = Simulation(scheme=scheme, portable=portable)
    insert_fake_quantization(model, simulation=simulation)  # sets the levels of each layer
    levels = {name: levels_of(layer) for name, layer in layers.items()}
    remove_fake_quantization(model)
    found, kept = [], []
    for name, places in sources(model, checkpoint).items():
        own = name.removesuffix(".weight")
        form = _form(configs.get(name), layers.get(own), group_size, simulation, levels.get(own, simulation.levels))
        stays = form is None and len(shapes[name]) > 1 and checkpoint.dtype(places[0]).is_floating_point
        found.append(Streamed(name, shapes[name], places, form or ((lambda rows: rows) if stays else float32)))
        kept += found[-1:] if stays else []
    return found, kept


def _form(config: Any, layer: nn.Module | None, group_size: int, simulation: Simulation, levels: float) -> Form | None:
    """Return the conversion that quantizes a weight, or None. layer: None for experts; levels: the largest int8 integer."""
    if config is None:
        return None
    if SCHEMES[simulation.scheme].rounds_activations and not simulation.portable:
        return _by_torchao(config)
    if isinstance(layer, nn.Embedding):
        return lambda rows: int8_rows(rows.float(), levels)
    return lambda rows: writer_of(simulation.scheme).tensor(rows.float(), group_size, levels, layer is None)


def verifying(
    source: Path, place: Path, *, scheme: StreamedScheme, group_size: int = 32, portable: bool = False, block: int = BLOCK
) -> Generator[tuple[int, int], None, None]:
    """Compare the checkpoint in `place` with its source, from which `sharded.quantizing` wrote it. Raises ExportMismatch. The
    config must imply exactly the tensors in the files. Each dequantized weight must be within half a step of its source, and
    every other value must equal it. Yields (elements compared, total elements) after each tensor.
    """
    before, after = SafetensorsReader(source), SafetensorsReader(place)
    tensors, _ = plan_of(skeleton(source), before, scheme, group_size, portable=portable)
    names = {part.name for tensor in tensors for part in tensor.planned(before.dtype(tensor.sources[0]))[0]}
    if {tensor.name for tensor in tensors} != set(skeleton(place).state_dict()) or names != set(after.names()):
        raise ExportMismatch("the quantized checkpoint does not have the tensors that its config.json implies")
    total, done = sum(prod(tensor.shape) for tensor in tensors), 0
    for tensor in tensors:
        _compare(tensor, before, after, block)
        done += prod(tensor.shape)
        yield done, total


def _compare(tensor: Streamed, before: SafetensorsReader, after: SafetensorsReader, block: int) -> None:
    parts = {part.name.rpartition("_")[2]: part.name for part in tensor.planned(before.dtype(tensor.sources[0]))[0]}
    line = 0
    for source in tensor.sources:
        for rows in before.rows(source, block) if len(tensor.shape) > 1 else [before.tensor(source)]:
            count = prod(rows.shape[:-1])
            if "qdata" in parts:
                found, scale = (after.lines(parts[part], line, line + count) for part in ("qdata", "scale"))
                scale = scale.repeat_interleave(rows.shape[-1] // scale.shape[-1], dim=1)
                same = bool(((found.float() * scale - rows.float()).abs() <= HALF * scale).all())
            else:
                name = next(iter(parts.values()))
                found = after.lines(name, line, line + count) if len(tensor.shape) > 1 else after.tensor(name)
                same = found.equal(rows.to(found.dtype).view(found.shape))
            if not same:
                raise ExportMismatch(f"{tensor.name} is not what was written of it")
            line += count


def _write_configs(model: PreTrainedModel, source: Path, folder: Path, scheme: StreamedScheme, group_size: int) -> None:
    config = model.config
    config.tie_word_embeddings = False
    config.dtype = "float32"
    config.quantization_config = torchao_config(model, scheme, group_size)
    config.save_pretrained(folder)
    if fused_experts(model):
        path = folder / "config.json"
        saved = {**json.loads(path.read_text("utf-8")), "experts_implementation": "eager"}
        path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", "utf-8")
    if model.can_generate():
        generation_of(model, source).save_pretrained(folder)
