"""Write a model as an ONNX file that stock ONNX Runtime opens: FP32 here, its integers by `integers.to_int8`.

Only operators of the standard's opset 20 are in the file (ONNX Runtime 1.17 and later): ONNX Runtime fuses what it can on
each machine when it opens the file, and the same file stays valid elsewhere. The one exception is weight-only-int4, whose
MatMulNBits is ONNX Runtime's own. Models with a language head are not traced (`decoder`).
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from compression import families, heads, numerics
from compression.export import decoder
from compression.export.experts_apart import take_apart
from compression.export.integers import to_int8
from compression.export.rotation import real_rotation
from compression.export.rows import as_rows

OPSET = 20
"""The first with Gelu as one operator."""

TYPES = "token_type_ids"
FILE = "model.onnx"


class _Logits(nn.Module):
    """A transformers model with its inputs in a fixed order and its head's answers as its only outputs."""

    def __init__(self, model: nn.Module, types: int) -> None:
        super().__init__()
        self.model, self.types = model, types

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Two or three (batch, sequence) int64 -> (batch, labels), (batch, sequence, labels), or twice (batch, sequence)."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.types:
            # A single type is every token's: said here, it costs the user no input.
            given[TYPES] = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        out = self.model(**given)
        return tuple(out[name] for name in outputs_of(self.model))


def outputs_of(model: nn.Module) -> tuple[str, ...]:
    """Name the outputs of a model's artifact: those of its stock class."""
    head = heads.of_architecture(type(model).__name__)
    assert head is not None, "what is shipped has a head"  # noqa: S101
    return head.outputs


def is_language_model(model: nn.Module) -> bool:
    """Say whether a model's artifact has a cache, and goes on with texts."""
    return heads.of_architecture(type(model).__name__) is heads.LANGUAGE


def inputs_of(model: nn.Module) -> tuple[str, ...]:
    """Name the inputs of a model's artifact: token types only where it tells any apart."""
    types = families.of(model).types(model.config)
    return ("input_ids", "attention_mask", TYPES) if types > 1 else ("input_ids", "attention_mask")


def plain(model: nn.Module) -> nn.Module:
    """Return a copy for inference without simulated integers, its attention spelled out.

    Written with eager attention the graph is shorter than with SDPA (whose translation guards against rows that are
    masked altogether) and ONNX Runtime runs it faster, in FP32 as in INT8.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    numerics.remove(twin)
    if getattr(twin.config, "_experts_implementation", None) is not None:
        twin.set_experts_implementation("batched_mm")  # type: ignore[operator]  # grouped_mm has no operator in the standard
    if twin.config._attn_implementation != "eager":  # type: ignore[union-attr]
        twin.set_attn_implementation("eager")  # type: ignore[operator]  # a method of every PreTrainedModel
    return twin


def graph(model: nn.Module) -> onnx.ModelProto:
    """Trace a stock classifier to FP32 ONNX; batch and sequence stay free."""
    ids = torch.zeros(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    family, names = families.of(model), inputs_of(model)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=family.max_positions(model.config))
    with _quiet(), real_rotation(model):
        program = torch.onnx.export(
            _Logits(model, family.types(model.config)),
            (ids, mask, torch.zeros_like(ids))[: len(names)],
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs_of(model)),
            dynamic_shapes={name: {0: batch, 1: sequence} for name in names},
            verbose=False,
        )
    assert program is not None  # noqa: S101 (only the non-dynamo exporter returns None)
    proto: onnx.ModelProto = program.model_proto
    _forget_origin(proto)
    return proto


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes for its own developers: stack traces with this machine's paths, a kilobyte a node."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


def write(model: nn.Module, folder: Path, *, int8: bool) -> Path:
    """Write `model` to folder/model.onnx and return that path. The model itself stays as it is.

    int8 writes integers for every linear layer and embedding: those that are simulated in `model`, dynamic-int8 where none
    are. Language models are written by `decoder`, with their weights in a second file. Raises RuntimeError where one of them
    could not be found in the traced graph.
    """
    if is_language_model(model):
        simulation = (numerics.simulation_of(model) or numerics.DYNAMIC) if int8 else None
        return decoder.write(model, folder, simulation=simulation)[0]
    twin = plain(model)
    experts = tuple(f"{name}." for name in take_apart(twin))
    proto = as_rows(graph(twin))
    if int8:
        if (simulation := numerics.simulation_of(model)) is not None:
            # Experts have no static ranges: not simulated, their layers are written as dynamic-int8.
            left = experts if simulation.scheme == "static-int8" else ()
            numerics.insert(twin, lambda name: not name.startswith(left), simulation)
        proto = to_int8(proto, dict(numerics.quantizable(twin)))
    onnx.checker.check_model(proto)
    path = folder / FILE
    path.write_bytes(proto.SerializeToString())
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's remarks: it warns of torchvision, of its own deprecations, of axes it renames."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
