"""Layers of any width as ONNX graphs, as Lathe's exporters write them, and sessions that run them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from compression.evaluation.runtimes import openvino
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS, FILE, has_vnni
from compression.export.onnx.exporter import write_onnx
from compression.export.onnx.graph_builder import BLOCKS, Nodes
from compression.export.onnx.quantized_linear import static_linear
from compression.models.linear_layers import is_linear
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.schemes import SCHEMES, Scheme

Feeds = dict[str, npt.NDArray[Any]]
Run = Callable[[], Sequence[npt.NDArray[Any]]]  #: a pass; returns the outputs
FORMS: dict[str, Scheme | None] = {"float32": None, "dynamic-int8": "dynamic-int8", "static-int8": "static-int8"}
READS = {"onnx": tuple(FORMS), "openvino": ("float32", "static-int8")}
"""Forms by runtime: OpenVINO does not read dynamic-int8 (docs/decisions/0029-what-openvino-reads.md)."""
ROWS, SIDE, HEADS, LAYER = 128, 14, 12, 384
"""Rows of a linear layer, and tokens of an encoder; side of a convolution's image; heads and width of an encoder."""
RANGE = (-4.0, 4.0)  #: of calibrated values


def simulated(module: nn.Module, scheme: Scheme | None) -> nn.Module:
    """Let a module simulate a scheme's integers in the portable form; None changes nothing."""
    if scheme is not None:
        linear = [name for name, layer in module.named_modules() if is_linear(layer)]
        ranges = dict.fromkeys(linear, RANGE) if SCHEMES[scheme].calibrated else {}
        insert_fake_quantization(module, simulation=Simulation(scheme=scheme, portable=True, ranges=ranges))
    return module.eval()


def linear(width: int, form: str, folder: Path) -> Feeds:
    """Write a linear layer of width inputs and outputs; return what it reads: (ROWS, width)."""
    layer: Any = next(simulated(nn.Sequential(nn.Linear(width, width)), FORMS[form]).children())
    to, bias = Nodes(), layer.bias.detach().numpy()
    if form == "static-int8":
        static_linear(to, "x", "layer", layer, output="y")
    elif form == "dynamic-int8":
        to.dynamic_linear("x", "layer", layer, to.constant("bias", bias), output="y")
    else:
        to.node("Gemm", "x", to.constant("weight", layer.weight.detach().numpy().T), to.constant("bias", bias), output="y")
    _write(to, ["rows", width], ["rows", width], folder)
    return {"x": np.random.default_rng(0).normal(size=(ROWS, width)).astype(np.float32)}


def conv(width: int, form: str, folder: Path) -> Feeds:
    """Write a 3×3 convolution of width channels each way, between rounded values; return (1, width, SIDE, SIDE).

    form: float32 or static-int8, of which convolutions of dynamic-int8 do not differ.
    """
    weight = torch.randn(width, width, 3, 3).numpy() / width
    to = Nodes()
    how: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    if form == "float32":
        to.node("Conv", "x", to.constant("weight", weight), to.constant("bias", np.zeros(width, np.float32)), output="y", **how)
    else:
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 63
        whole = np.round(weight / scale[:, None, None, None]).astype(np.int8)
        unit = 8.0 / 255
        stored = to.node("DequantizeLinear", to.constant("whole", whole), to.constant("scale", scale), axis=0)
        bias = to.node(
            "DequantizeLinear", to.constant("bias", np.zeros(width, np.int32)), to.constant("s", unit * scale), axis=0
        )
        made = to.node("Conv", to.dequantized("x", unit, 128), stored, bias, **how)
        to.dequantized(made, unit, 128, output="y")
    shape: list[str | int] = ["rows", width, SIDE, SIDE]
    _write(to, shape, shape, folder)
    return {"x": np.random.default_rng(0).normal(size=(1, width, SIDE, SIDE)).astype(np.float32)}


def encoder(form: str, folder: Path, *, ffn: int = 4 * LAYER, head: int = LAYER // HEADS) -> Feeds:
    """Write a classifier with one layer of an encoder. ffn: units; head: channels of each of HEADS heads."""
    sizes = {"hidden_size": HEADS * head, "intermediate_size": ffn, "num_attention_heads": HEADS, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=64, max_position_embeddings=ROWS, attn_implementation="sdpa", **sizes)
    write_onnx(simulated(BertForSequenceClassification(config), FORMS[form]), folder, int8=form != "float32")
    names = "input_ids", "attention_mask", "token_type_ids"
    return {name: np.full((1, ROWS), int(name != "token_type_ids"), np.int64) for name in names}


def of_ffn(width: int, form: str, folder: Path) -> Feeds:
    """Write an encoder of feed-forward units."""
    return encoder(form, folder, ffn=width)


def of_heads(width: int, form: str, folder: Path) -> Feeds:
    """Write an encoder of heads of so many channels."""
    return encoder(form, folder, head=width)


LAYERS: dict[str, tuple[Callable[[int, str, Path], Feeds], tuple[int, ...], tuple[str, ...]]] = {
    "linear": (linear, (250, 333, 381), tuple(FORMS)),
    "conv": (conv, (29, 45, 61), ("float32", "static-int8")),
    "ffn": (of_ffn, (1000, 1333, 1531), tuple(FORMS)),
    "heads": (of_heads, (29, 31), tuple(FORMS)),
}
"""By name: how it is written, odd widths by default, and its forms."""


def opened(runtime: str, folder: Path, feeds: Feeds, *, threads: int, joins: bool = True) -> Run:
    """Open folder/model.onnx in a runtime; return a pass. joins: whether ONNX Runtime may join operators."""
    if runtime == "openvino":
        compiled = openvino.OpenVinoRunner(folder / FILE, threads=threads).compiled
        return lambda: list(compiled({one.any_name: feeds[one.any_name] for one in compiled.inputs}).values())
    session = onnx_session(folder / FILE, threads=threads, joins=joins)
    given = {one.name: feeds[one.name] for one in session.get_inputs()}
    return lambda: session.run(None, given)


def onnx_session(path: Path, *, threads: int, joins: bool = True) -> onnxruntime.InferenceSession:
    """Open a file as Lathe's runner does, or without any joined operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if not joins:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not has_vnni():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write(to: Nodes, inputs: list[str | int], outputs: list[str | int], folder: Path) -> None:
    ends = [
        helper.make_tensor_value_info(*one) for one in (("x", TensorProto.FLOAT, inputs), ("y", TensorProto.FLOAT, outputs))
    ]
    graph = helper.make_graph(to.nodes, "layer", ends[:1], ends[1:], list(to.initializers.values()))
    opset, version = BLOCKS
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)
    onnx.checker.check_model(proto)
    (folder / FILE).write_bytes(proto.SerializeToString())
