"""Quantize a checkpoint as it lies on disk, a few rows at a time: for models that memory does not hold.

The result is that of `transformers.write(model, folder, int8=True)`, tensor by tensor: integers need a row of a weight and
nothing else. In memory are the model's skeleton, without any weights, and one block of rows with what quantizing it takes,
less than thirty-two times the block: half a gibibyte, where a shard of the usual size has five.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as stock
from torch import nn
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import quantize_
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel, TorchAoConfig

from compression import numerics
from compression.errors import ConfigMismatch, UnsupportedArchitecture
from compression.export.transformers import int8_rows, torchao_scheme
from compression.shards import BLOCK, LARGEST_SHARD, Checkpoint, Planned, writing

StreamedScheme = Literal["dynamic-int8", "weight-only-int8"]
"""Schemes whose integers follow from the weights alone, row by row."""

LEFTOVERS = (r"\.rotary_emb\.inv_freq$",)
"""Buffers that older versions saved with the weights, and stock code no longer reads."""


def skeleton(folder: Path) -> PreTrainedModel:
    """Build the stock model of a folder's config.json on the meta device, where weights have shapes and no bytes.

    Raises UnsupportedArchitecture where config.json names no stock class, ConfigMismatch where it makes no model.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # transformers raises whatever it meets
        raise ConfigMismatch(f"config.json cannot be read: {str(problem)[:300]}", param="config.json") from problem
    name = str(next(iter(config.architectures or ()), None))
    found = getattr(stock, name, None)
    if not (
        isinstance(found, type) and issubclass(found, PreTrainedModel) and getattr(found, "config_class", None) is type(config)
    ):
        cause = f"architectures names {name!r:.100}, which is no stock class of {config.model_type!r}"
        raise UnsupportedArchitecture(cause, param="config.json:architectures")
    try:
        with torch.device("meta"):
            return found(config).eval()
    except Exception as problem:
        cause = f"config.json makes no {name}: {str(problem)[:300]}"
        raise ConfigMismatch(cause, param="config.json") from problem


def sources(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, str]:
    """Say which tensor of a checkpoint each tensor of a model is filled from, in model order; tied ones from the same.

    A checkpoint of the bare model lacks the prefix that its tensors have in a model with a head. Raises ConfigMismatch where
    the two do not fit: names that lack or are too many, other shapes.
    """
    wanted = model.state_dict(keep_vars=True)
    prefix = f"{model.base_model_prefix}."
    stored = {name if name in wanted or f"{prefix}{name}" not in wanted else prefix + name: name for name in checkpoint.names()}
    ignored = (*(model._keys_to_ignore_on_load_unexpected or ()), *LEFTOVERS)
    found: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in wanted.items():
        # A tied table is stored under the name that comes first; where it is stored twice, stock code takes that one.
        owner = first.setdefault(id(tensor), name)
        if owner not in stored:
            raise ConfigMismatch(f"the weights lack {owner!r}", param=f"*.safetensors:{owner}")
        if checkpoint.shape(stored[owner]) != tuple(tensor.shape):
            cause = f"{owner!r} has the shape {list(checkpoint.shape(stored[owner]))}, config.json implies {list(tensor.shape)}"
            raise ConfigMismatch(cause, param=f"{checkpoint.file(stored[owner])}:{owner}")
        found[name] = stored[owner]
    for name in sorted(stored.keys() - found.keys()):
        if not any(re.search(pattern, name) for pattern in ignored):
            cause = f"config.json does not account for {name!r:.200}"
            raise ConfigMismatch(cause, param=f"{checkpoint.file(stored[name])}:{name[:200]}")
    return found


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the model: where it comes from, and what its rows become; None for what stays in floating point."""

    name: str
    source: str
    config: Any
    own: bool

    def parts(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the tensors that are stored for some rows, and what torchao says of them. rows: (some, ...), as read."""
        value = rows.float() if rows.is_floating_point() else rows
        if self.config is not None:
            value = int8_rows(value) if self.own else _quantized(value, self.config)
        parts, metadata = flatten_tensor_state_dict({self.name: value})
        return parts, metadata


def _quantized(weight: torch.Tensor, config: Any) -> torch.Tensor:
    holder = nn.Module()
    holder.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(holder, config, filter_fn=lambda *_: True)
    found: torch.Tensor = holder.weight.data
    return found


def quantize(
    source: Path,
    place: Path,
    *,
    scheme: StreamedScheme = "dynamic-int8",
    block: int = BLOCK,
    largest: int = LARGEST_SHARD,
) -> None:
    """Write the int8 form of the checkpoint in `source` as the folder `place`: config.json and safetensors.

    Every linear weight has one scale an output channel, every table one a row; the rest is float32. Tied tables are untied:
    embeddings and head are read in different ways, so torchao's tensors differ. block: bytes read at once; largest: bytes of
    tensors a file. Raises what `skeleton`, `sources` and `shards.Checkpoint` do, and UnsupportedArchitecture where a matrix
    would stay in floating point because stock code keeps it neither in a linear layer nor in an embedding.
    """
    checkpoint = Checkpoint(source)
    model = skeleton(source)
    tensors = _tensors(model, checkpoint, scheme)
    metadata: dict[str, str] = {}
    plan = []
    for tensor in tensors:
        shape = checkpoint.shape(tensor.source)
        # The names and types of what a weight becomes are those of what one of its rows becomes.
        parts, said = tensor.parts(torch.ones((1, *shape[1:]) if shape else (), dtype=checkpoint.dtype(tensor.source)))
        metadata |= said
        plan.append([Planned(name, part.dtype, (*shape[:1], *part.shape[1:])) for name, part in parts.items()])
    metadata["tensor_names"] = json.dumps([tensor.name for tensor in tensors])
    with writing(place, plan, metadata=metadata, largest=largest) as shards:
        for tensor in tensors:
            for rows in checkpoint.rows(tensor.source, block):
                for name, part in tensor.parts(rows)[0].items():
                    shards.put(name, part)
        _write_configs(model, source, shards.folder, scheme)


def _tensors(model: PreTrainedModel, checkpoint: Checkpoint, scheme: StreamedScheme) -> list[_Tensor]:
    whole = {f"{name}.weight" for name, layer in numerics.quantizable(model) if not numerics.is_transposed(layer)}
    configs = _torchao(model, scheme).fqn_to_config
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1 and tensor.is_floating_point() and name not in whole:
            raise UnsupportedArchitecture(
                f"{name} is a matrix that stock code keeps neither in a linear layer nor in an embedding",
                param="config.json:architectures",
            )
    own = scheme == "weight-only-int8"
    return [_Tensor(name, source, configs.get(name), own) for name, source in sources(model, checkpoint).items()]


def _torchao(model: nn.Module, scheme: StreamedScheme) -> Any:
    layers = [name for name, layer in numerics.quantizable(model) if isinstance(layer, nn.Linear)]
    return torchao_scheme(model, dict.fromkeys(layers) if scheme == "weight-only-int8" else {})


def _write_configs(model: PreTrainedModel, source: Path, folder: Path, scheme: StreamedScheme) -> None:
    config = model.config
    config.tie_word_embeddings = False
    config.dtype = "float32"
    config.quantization_config = TorchAoConfig(_torchao(model, scheme), include_input_output_embeddings=True)
    config.save_pretrained(folder)
    if model.can_generate():
        has_own = (source / "generation_config.json").is_file()
        own = GenerationConfig.from_pretrained(source, local_files_only=True) if has_own else model.generation_config
        own.save_pretrained(folder)
