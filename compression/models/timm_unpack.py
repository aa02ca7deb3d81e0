"""Turn an image classifier of timm into a network's folder: timm's own code is traced, and the trace read as an ONNX file is.

timm comes with the extra `vision`. Only its own architectures are made, by name; nothing is fetched.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxscript.optimizer
import torch
from onnxscript import ir
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.files.safetensors_header import SINGLE
from compression.models.files.timm_config import TimmModel, read_timm
from compression.models.network_folder import network_of, write_network
from compression.models.networks.graph import Graph
from compression.models.networks.onnx_reader import read_onnx
from compression.models.networks.untrained import Constants, constants_of
from compression.models.timm_form import AS_ONNX, Array, Origin, created, differences, marked, origin_of, stored
from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, MissingFile, UnsupportedArchitecture


def unpack(folder: Path, place: Path, labels: Sequence[str] = ()) -> None:
    """Write a timm model's folder as a network's, `place`. Outputs without names have those of the data's labels, if as many.

    Raises MissingResource without timm, ConfigMismatch, DamagedCheckpoint, and UnsupportedArchitecture or UnsupportedOperator
    for a model that is no network of Lathe's operators.
    """
    found = read_timm(folder)
    model = opened(folder, found)
    trace = read_model(model, ImagePreprocessing.read(folder).size)
    names = found.labels or (tuple(labels) if len(labels) == found.classes else None)
    source = {
        "library": "timm",
        "config": dict(found.config),
        "names": trace.origin.views,
        "lost": trace.origin.lost,
        "fixed": sorted(trace.constants.fixed),
        "windows": trace.constants.windows,
    }
    try:
        network = network_of(trace.graph, trace.tensors, source, names)
    except ValueError as problem:
        raise _unsupported(found, str(problem)) from problem
    if (apart := next(differences(network, model), None)) is not None:
        raise _unsupported(found, f"Lathe's answers to random images differ by {apart:.3g}")
    write_network(network, place, folder)


@dataclass(frozen=True)
class Trace:
    """A model of timm as a network, and where its numbers come from. tensors: by "node.role"."""

    graph: Graph
    tensors: dict[str, Array]
    origin: Origin
    constants: Constants


def network_in(folder: Path) -> tuple[Graph, Constants]:
    """Return the network of a timm model's folder, for a check: of one trace, which takes half the memory. So constants that
    only `read_model` knows to follow from no weight are counted as parameters. Raises what `unpack` raises.
    """
    model, size = opened(folder, read_timm(folder)), ImagePreprocessing.read(folder).size
    with tempfile.TemporaryDirectory() as passage:
        graph, tensors = read_onnx(written(traced(model, size), Path(passage) / "network.onnx", stored(model)))
    return graph, constants_of(graph, tensors)


def read_model(model: nn.Module, size: tuple[int, int]) -> Trace:
    """Trace a model for images of a height and width, and read it twice: numbers that are the same with marks for weights are
    none of its weights. Raises UnsupportedArchitecture and UnsupportedOperator.
    """
    with tempfile.TemporaryDirectory() as passage:
        trace, marks, file = traced(model, size), marked(model), Path(passage) / "network.onnx"
        marked_graph, read = read_onnx(written(trace.clone(), file, marks, marks))
        origin = origin_of(marks, read)
        values = {node.tensor("value") for node in marked_graph.nodes if node.op == "constant"} if marks else set()
        read = {name: read[name] for name in values}  # those of weights would be held twice
        graph, tensors = read_onnx(written(trace, file, stored(model)))
    trained = {name for name, _ in model.named_parameters()}
    known = {name for name, view in origin.views.items() if view["of"] not in trained}
    known |= {name for name, value in tensors.items() if name in read and np.array_equal(read[name], value)}
    return Trace(graph, tensors, origin, constants_of(graph, tensors, known))


def opened(folder: Path, found: TimmModel) -> nn.Module:
    """Return the model of a folder, float32, in evaluation mode."""
    model = created(found)
    if not (folder / SINGLE).is_file():
        raise MissingFile(f"the model has no {SINGLE}", param=SINGLE)
    try:
        model.load_state_dict(load_file(folder / SINGLE))
    except SafetensorError as problem:
        raise DamagedCheckpoint(f"{SINGLE}: {problem}", param=SINGLE) from problem
    except RuntimeError as problem:
        cause = f"the weights are not those of timm's {found.architecture}: {str(problem)[:500]}"
        raise ConfigMismatch(cause, param=SINGLE) from problem
    return model


class _Mean(nn.AdaptiveAvgPool2d):
    """The mean of a map. torch's own, of a map with channels last, is traced with strides, which become no operator."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(rows, channels, height, width) -> (rows, channels, 1, 1)"""
        return maps.mean((-2, -1), keepdim=True)


@torch.no_grad()
def traced(model: nn.Module, size: tuple[int, int]) -> ir.Model:
    """Return a model's trace, whose rows are free. Its batch normalizations stay: training needs them."""
    rows = torch.zeros(2, 3, *size)
    means = [each for each in model.modules() if type(each) is nn.AdaptiveAvgPool2d and each.output_size in (1, (1, 1))]
    for each in means:
        each.__class__ = _Mean
    try:
        program: Any = torch.onnx.export(
            model,
            (rows,),
            None,
            dynamo=True,
            verbose=False,
            optimize=False,  # it would fold the normalizations into the convolutions
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["pixel_values"],
            output_names=["logits"],
            external_data=False,
        )
    except Exception as problem:  # the exporter's, and any of the model's own code
        cause = f"the model cannot be traced for images of {size[0]} × {size[1]}: {str(problem)[:300]}"
        raise UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX) from problem
    finally:
        for each in means:
            each.__class__ = nn.AdaptiveAvgPool2d
    trace: ir.Model = program.model
    return trace


def written(trace: ir.Model, path: Path, own: Collection[str], marks: Mapping[str, Array] = MappingProxyType({})) -> Path:
    """Write a trace as an ONNX file; it is changed. own: names of the model's tensors; marks: other numbers for them."""
    for name, numbers in marks.items():
        if name in trace.graph.initializers:
            trace.graph.initializers[name].const_value = ir.Tensor(numbers, name=name)
    onnxscript.optimizer.inline(trace)
    onnxscript.optimizer.fold_constants(trace, onnx_shape_inference=True)
    for node in trace.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and bias.name not in own and bias.const_value is not None and not bias.const_value.numpy().any():
            node.replace_input_with(2, None)  # the exporter's, where a convolution has none
    onnxscript.optimizer.remove_unused_nodes(trace)
    ir.save(trace, path)
    return path


def _unsupported(found: TimmModel, why: str) -> UnsupportedArchitecture:
    cause = f"timm's {found.architecture} does not become a network: {why[:500]}"
    return UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX)
