"""Traces a model to FP32 ONNX, once per shape: the stages of a job differ by little more than their weights.

Tracing takes nearly all of the seconds that writing an artifact takes, and the traced graph does not depend on the weights
until constants are folded. So the graph is cached before that, without weights, for stages or datasets of one shape.
"""

import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compression.export.onnx.rotary_patch import real_rotation
from compression.modalities.registry import modality_for
from compression.models.architectures import heads

OPSET = 20  #: the first opset with Gelu as one operator
MOST = 4  #: cached graphs without weights, each some hundred kilobytes: those of the stages, and of shapes that are measured
NOT_THE_GRAPH = ("_name_or_path", "architectures", "id2label", "label2id")
"""Keys of a config that do not affect the computation: until a stage saves it, `architectures` is of the uploaded file."""


def outputs_of(model: nn.Module) -> tuple[str, ...]:
    """Return the output names of a model's artifact: those of its stock class."""
    head = heads.of_architecture(type(model).__name__)
    assert head is not None, "what is shipped has a head"  # noqa: S101
    return head.outputs


def inputs_of(model: nn.Module) -> tuple[str, ...]:
    """Return the input names of a model's artifact, in order."""
    return tuple(modality_for(model).example_inputs(model, 1, 1))


_kept: OrderedDict[tuple[Any, ...], torch.onnx.ONNXProgram] = OrderedDict()


def graph(model: nn.Module) -> onnx.ModelProto:
    """Trace a stock classifier to FP32 ONNX; batch and sequence stay free. model: in evaluation mode, on the CPU and in
    float32. An earlier graph of the same class, config and shapes is reused; `verify` checks each written file.
    """
    wrapped = modality_for(model).traced(model, inputs_of(model), outputs_of(model))
    tensors = {**dict(wrapped.named_parameters(remove_duplicate=False)), **dict(wrapped.named_buffers(remove_duplicate=False))}
    key = _key(model, tensors)
    kept = _kept.pop(key, None)
    if kept is None:
        program = _trace(model, wrapped)
        if all(name in tensors for name in program.model.graph.initializers):  # any other may be derived from weights
            kept = torch.onnx.ONNXProgram(program.model.clone(), None)
            _let_go(kept)  # the model keeps its weights
    if kept is not None:
        _kept[key] = kept
        while len(_kept) > MOST:
            _kept.popitem(last=False)
        # Clone right after tracing too: folded values are numbered from where a graph's own numbers end, and a file's bytes
        # must not depend on whether its graph came from the cache.
        program = torch.onnx.ONNXProgram(kept.model.clone(), None)
    names = list(program.model.graph.initializers)
    program.apply_weights({name: tensors[name] for name in names if name in tensors})
    program.optimize()
    proto: onnx.ModelProto = program.model_proto
    _let_go(program)  # the optimizer's rules live as long as the process and keep a reference to the last graph
    _forget_origin(proto)
    return proto


def _key(model: nn.Module, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_GRAPH}  # type: ignore[operator,union-attr]
    shapes = tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    return type(model), json.dumps(config, sort_keys=True, default=str), shapes


def _let_go(program: torch.onnx.ONNXProgram) -> None:
    for value in program.model.graph.initializers.values():
        value.const_value = None


def _trace(model: nn.Module, wrapped: nn.Module) -> torch.onnx.ONNXProgram:
    modality = modality_for(model)
    example, free = modality.example_inputs(model, 2, 8), modality.free_dimensions(model)
    sizes = {name: torch.export.Dim(name, max=most) for dimensions in free.values() for name, most in dimensions.values()}
    shapes = tuple({place: sizes[name] for place, (name, _) in free[each].items()} for each in example)
    with _quiet(), real_rotation(model):
        program = torch.onnx.export(
            wrapped,
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=list(outputs_of(model)),
            dynamic_shapes=(shapes,),  # the wrapped model takes its inputs as one tuple
            verbose=False,
            optimize=False,
        )
    assert program is not None  # noqa: S101 (only the non-dynamo exporter returns None)
    return program


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Remove the exporter's debugging metadata. It has stack traces with this machine's paths, a kilobyte per node."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings: about torchvision, its own deprecations, and axes that it renames."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
