"""Writes a decoder as one GGUF file for llama.cpp: in 8 bits (Q8_0), in 4 bits (Q4_0) or in bfloat16.

Norms and biases are float32. Files of 4 bits have the token table and the head in 8 bits, as Lathe's own integers of 4 bits do,
and the layers that a model simulates in 8 bits among others of 4.
A matrix whose rows do not divide into blocks of 32 is stored in float16. The integers of a simulated model are kept where the
blocks can hold them (`blocks`), but llama.cpp rounds activations by blocks of 32 to 8 bits, which no training has simulated:
these are further forms of the model, with scores of their own.

The folder must have the tokenizer's files before the weights are written: a GGUF file has its vocabulary at its beginning.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind, GGUFWriter, LlamaFileType
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes.gguf import FILE, lacking
from compression.export.exporter import Exporter, plain
from compression.export.gguf import blocks, metadata
from compression.export.gguf.vocabulary import Vocabulary, read_vocabulary, way_of
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.architectures.decoder_tensor_names import FAMILIES as LAYOUTS
from compression.models.files.gguf_names import NAMES
from compression.models.linear_layers import is_transposed, matrix
from compression.quantization.fake_quantize import quantizable, remove_fake_quantization, simulation_of
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.errors import UnsupportedTokenizer
from compression.schema.recipe.base import Task
from compression.schema.schemes import Scheme

FILE_TYPES = {Kind.Q8_0: LlamaFileType.MOSTLY_Q8_0, Kind.Q4_0: LlamaFileType.MOSTLY_Q4_0, Kind.BF16: LlamaFileType.MOSTLY_BF16}
PRECISIONS: dict[Kind, ArtifactPrecision] = {Kind.Q8_0: "int8", Kind.Q4_0: "int4", Kind.BF16: "bfloat16"}
OUTER = ("token_embd.", "output.")  #: the token table and the head
KEPT = "position_embd."  #: a table that llama.cpp adds in float32


class GgufExporter(Exporter):
    """One GGUF file, with the vocabulary in it, and beside it the tokenizer's files."""

    card = library = "gguf"
    is_simulated = False  # scales are rounded to float16, tables in blocks of their own
    rounding_noise = 4.0
    """llama.cpp also keeps keys and values in 16 bits. On tiny models its distance was 0.7 to 1.0 times what the rounding of
    the weights to 8 bits changes, and activations have values that stand out more than weights do."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def hinders(self, model: nn.Module) -> str | None:
        """Return why llama.cpp has no such model, or cannot have its matrices in blocks."""
        if heads.of_architecture(type(model).__name__) is not heads.LANGUAGE or not isinstance(model, PreTrainedModel):
            return "GGUF files are written of language models alone."
        if model.config.model_type not in metadata.FAMILIES:
            return f"GGUF files are written of {', '.join(metadata.FAMILIES)}, and this is {model.config.model_type}."
        for cause in metadata.hindrances(model.config):
            return f"{cause[0].upper()}{cause[1:]}."
        columns = {matrix(module).shape[1] for _, module in quantizable(model)}
        if all(blocks.kind_of(width, self.kind) == Kind.F16 for width in columns):
            return f"None of its matrices has rows that divide into blocks of {blocks.BLOCK}."
        # Last, since llama.cpp is loaded to find out.
        return f"The file could not be reopened: this worker lacks {missing}." if (missing := lacking()) else None

    def cannot_read(self, model: nn.Module, folder: Path) -> str | None:
        """Return why llama.cpp cannot have the tokenizer in a folder. model: one that nothing `hinders`."""
        try:
            _vocabulary(model, folder)
        except UnsupportedTokenizer as problem:
            return f"{problem.cause}."
        return None

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write model.gguf into a folder that has the tokenizer's files, tensor by tensor. Raises UnsupportedTokenizer."""
        vocabulary, way = _vocabulary(model, folder)
        writer = GGUFWriter(folder / FILE, metadata.architecture(model))
        metadata.describe(writer, model)
        writer.add_file_type(FILE_TYPES[self.kind])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        vocabulary.add_to(writer, way)
        stored, divisors = list(self._tensors(model)), metadata.divisors(model)
        for name, value in divisors.items():
            writer.add_tensor_info(name, value.shape, value.dtype, value.nbytes)
        for one in stored:
            writer.add_tensor_info(one.place, one.shape, np.dtype(np.float32), one.bytes, raw_dtype=one.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for value in divisors.values():
            writer.write_tensor_data(value)
        for one in stored:
            writer.write_tensor_data(_rotated(one.place, one.pack(), model))
        writer.close()

    def reference(self, model: nn.Module, *, int8: bool) -> nn.Module:
        """Return a float32 copy with the file's weights; for bfloat16 with the model's own, without simulated integers."""
        return self._unpacked(model) if int8 else plain(model)

    def unit_of_noise(self, model: nn.Module) -> nn.Module | None:
        """Return a copy with the weights rounded to 8 bits in blocks, as llama.cpp rounds activations in either precision."""
        return None if self.kind == Kind.BF16 else GgufExporter(Kind.Q8_0)._unpacked(plain(model))

    def rounds_activations(self, model: nn.Module, *, int8: bool) -> bool:  # noqa: ARG002
        """Return whether the file has integers: then activations are rounded."""
        return int8

    @torch.no_grad()
    def _unpacked(self, model: nn.Module) -> nn.Module:
        """Return a copy with the weights of a file, without simulated integers."""
        twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
        for one in self._tensors(twin):
            values = blocks.unpack(one.pack(), one.kind)
            one.parameter.copy_(values.t() if one.is_turned else values)
        remove_fake_quantization(twin)
        return twin

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the command of llama.cpp."""
        return f"llama-server -m {FILE}"

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return the file's own precision, whatever is simulated."""
        return PRECISIONS[self.kind]

    def stored_as(self, model: nn.Module, precision: ArtifactPrecision) -> str:  # noqa: ARG002
        """Return the kind of blocks, and how many parameters are stored in others."""
        stored = list(self._tensors(model))
        others = [(kind, sum(one.parameter.numel() for one in stored if one.kind == kind)) for kind in (Kind.Q8_0, Kind.F16)]
        parts = [f"{count:,} parameters {kind.name}" for kind, count in others if count and kind != self.kind]
        return ", ".join([self.kind.name, *parts])

    def _tensors(self, model: Any) -> Iterator["StoredTensor"]:
        """Yield a model's tensors in their order; a head that is tied to the table is not one."""
        owners: dict[int, nn.Module] = {}
        for _, module in quantizable(model):
            owners.setdefault(id(module.weight), module)
        simulation = simulation_of(model)
        finer = {f"{name}.weight" for name in simulation.eight_bits} if simulation is not None else set[str]()
        for name, parameter in model.named_parameters():
            place = _place(name, model)
            owner = None if place.startswith(KEPT) else owners.get(id(parameter))
            yield StoredTensor(place, self._kind(place, owner, finer=name in finer), parameter, owner)

    def _kind(self, place: str, owner: nn.Module | None, *, finer: bool) -> Kind:
        if owner is None:
            return Kind.F32
        wanted = Kind.Q8_0 if self.kind == Kind.Q4_0 and (finer or place.startswith(OUTER)) else self.kind
        return blocks.kind_of(matrix(owner).shape[1], wanted)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file. owner: the layer or table that it is the matrix of; None for others, in float32."""

    place: str
    kind: Kind
    parameter: Tensor
    owner: nn.Module | None

    @property
    def is_turned(self) -> bool:
        """Return whether the model has it as (inputs, outputs)."""
        return self.owner is not None and is_transposed(self.owner)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its shape in numpy's order; GGUF's is the reverse."""
        return tuple(self.parameter.shape[::-1] if self.is_turned else self.parameter.shape)

    @property
    def bytes(self) -> int:
        """Return its size in the file."""
        numbers, width = gguf.GGML_QUANT_SIZES[self.kind]
        return self.parameter.numel() // numbers * width

    def pack(self) -> blocks.Bytes:
        """Return its bytes or numbers, row by row."""
        if self.owner is not None:
            return blocks.pack(self.owner, self.kind)
        return np.ascontiguousarray(self.parameter.detach().float().cpu().numpy())


def _vocabulary(model: Any, folder: Path) -> tuple[Vocabulary, str]:
    """Read a folder's tokenizer and find llama.cpp's way for it. Raises UnsupportedTokenizer."""
    found = read_vocabulary(folder, model.config)
    return found, way_of(found, folder, metadata.architecture(model), lambda writer: metadata.describe(writer, model))


def _place(name: str, model: Any) -> str:
    """Return llama.cpp's name of a parameter."""
    layout = LAYOUTS[model.config.model_type]
    module, _, end = name.removeprefix(layout.prefix).rpartition(".")
    if module == "lm_head":
        return f"output.{end}"
    if not module.startswith(f"{layout.block}."):
        return f"{NAMES[module]}.{end}"
    _, number, part = module.split(".", 2)
    return f"blk.{number}.{NAMES[part]}.{end}"


def _rotated(place: str, values: blocks.Bytes, model: Any) -> blocks.Bytes:
    """Return rows in the order of llama.cpp: in its architecture llama, neighbouring channels of queries and keys are a pair.

    values: (rows, bytes of a row) or (rows,). In stock code a channel's partner is half a head away.
    """
    shape, part = adapter_of(model).shape_of(model.config), place.split(".")[-2]
    heads_of = {"attn_q": shape.heads, "attn_k": shape.groups or shape.heads}
    if metadata.architecture(model) != "llama" or part not in heads_of:
        return values
    split = values.reshape(heads_of[part], 2, len(values) // heads_of[part] // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


Q8_0, Q4_0, BF16 = (GgufExporter(kind) for kind in PRECISIONS)
