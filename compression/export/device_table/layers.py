"""Graphs of single layers, of any width, as Lathe's exporters write them."""

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from compression.evaluation.runtimes.onnx import FILE
from compression.export.onnx.graph_builder import BLOCKS, ZERO_POINT, Nodes
from compression.export.onnx.quantized_linear import static_linear
from compression.export.onnx.softmax import divided, exponentials
from compression.models.linear_layers import is_linear
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.device_table import FORMS, OF_IMAGES, Form, Operation
from compression.schema.schemes import SCHEMES

Shape = list[str | int]
RANGE = (-4.0, 4.0)  #: of calibrated values
UNIT = 8.0 / 255  #: of rounded values of images, with the zero point in the middle
SCHEME_OF: dict[Form, str | None] = {form: form if form in SCHEMES else None for form in FORMS}


def simulated(module: nn.Module, form: Form) -> nn.Module:
    """Let a module simulate a form's integers, with portable weights; float32 changes nothing."""
    if (scheme := SCHEME_OF[form]) is not None:
        linear = [name for name, layer in module.named_modules() if is_linear(layer)]
        ranges = dict.fromkeys(linear, RANGE) if SCHEMES[scheme].calibrated else {}
        insert_fake_quantization(module, simulation=Simulation(scheme=scheme, portable=True, ranges=ranges))
    return module.eval()


def linear(to: Nodes, form: Form, inputs: int, outputs: int) -> None:
    """Write a linear layer of x: (rows, inputs)."""
    layer: Any = next(simulated(nn.Sequential(nn.Linear(inputs, outputs)), form).children())
    bias = layer.bias.detach().numpy()
    if form == "static-int8":
        static_linear(to, "x", "layer", layer, output="y")
    elif form == "dynamic-int8":
        to.dynamic_linear("x", "layer", layer, to.constant("bias", bias), output="y")
    else:
        to.node("Gemm", "x", to.constant("weight", layer.weight.detach().numpy().T), to.constant("bias", bias), output="y")


def convolution(to: Nodes, form: Form, x: str, inputs: int, outputs: int) -> str:
    """Write a 3×3 convolution of x, between rounded values where the form is of integers."""
    return _convolution(to, form, x, torch.randn(outputs, inputs, 3, 3) / sqrt(9 * inputs), 1)


def depthwise(to: Nodes, form: Form, x: str, inputs: int, outputs: int) -> str:  # noqa: ARG001 (as many)
    """Write a 3×3 convolution of each channel of x by itself."""
    return _convolution(to, form, x, torch.randn(inputs, 1, 3, 3) / 3, inputs)


def addition(to: Nodes, form: Form, x: str, inputs: int, outputs: int) -> str:  # noqa: ARG001 (as many)
    """Write the sum of x and k, of two rounded values where the form is of integers."""
    return to.node("Add", _rounded(to, form, x), _rounded(to, form, "k"))


def _rounded(to: Nodes, form: Form, x: str, output: str | None = None) -> str:
    return x if form == "float32" else to.dequantized(x, UNIT, ZERO_POINT, output)


def _convolution(to: Nodes, form: Form, x: str, kernels: torch.Tensor, group: int) -> str:
    weight: npt.NDArray[np.float32] = kernels.numpy()
    how: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": group}
    outputs, name = len(weight), f"{len(to.nodes)}"
    if form == "float32":
        bias = to.constant(f"{name}.bias", np.zeros(outputs, np.float32))
        return to.node("Conv", x, to.constant(f"{name}.weight", weight), bias, **how)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 63
    whole = np.round(weight / scale[:, None, None, None]).astype(np.int8)
    units = to.constant(f"{name}.scale", scale)
    stored = to.node("DequantizeLinear", to.constant(f"{name}.whole", whole), units, axis=0)
    counts = to.constant(f"{name}.bias", np.zeros(outputs, np.int32))
    bias = to.node("DequantizeLinear", counts, to.constant(f"{name}.bias_scale", UNIT * scale), axis=0)
    return to.node("Conv", _rounded(to, form, x), stored, bias, **how)


def attention(to: Nodes, form: Form, inputs: int, outputs: int) -> None:
    """Write what lies between an attention layer's linear layers, of which nothing is rounded. Among integers softmax is
    written as separate operators, as exporters do. x, k, v: (batch, tokens, inputs); outputs: heads.
    """
    split = to.constant("split", np.array([0, 0, outputs, inputs // outputs], np.int64))
    query, key, value = (
        to.node("Transpose", to.node("Reshape", name, split), perm=perm)
        for name, perm in (("x", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    factor = to.constant("factor", np.array(1 / sqrt(inputs // outputs), np.float32))
    scores = to.node("Mul", to.node("MatMul", query, key), factor)
    if form == "float32":
        heads = to.node("MatMul", to.node("Softmax", scores, axis=-1), value)
    else:
        weights = exponentials(to, scores)
        heads = divided(to, to.node("MatMul", weights, value), weights)
    mixed = to.node("Transpose", heads, perm=[0, 2, 1, 3])
    to.node("Reshape", mixed, to.constant("join", np.array([0, 0, inputs], np.int64)), output="y")


def normalization(to: Nodes, form: Form, inputs: int, outputs: int) -> None:  # noqa: ARG001 (never rounded, as many)
    """Write the sum of x and k, and its layer_norm."""
    ends = to.constant("weight", np.ones(inputs, np.float32)), to.constant("bias", np.zeros(inputs, np.float32))
    to.node("LayerNormalization", to.node("Add", "x", "k"), *ends, output="y", axis=-1)


def activation(to: Nodes, form: Form, inputs: int, outputs: int) -> None:  # noqa: ARG001 (never rounded, as many)
    """Write GELU of x by its error function, which runtimes join into one operator."""
    numbers = {"root": sqrt(2), "one": 1.0, "half": 0.5}
    root, one, half = (to.constant(name, np.array(value, np.float32)) for name, value in numbers.items())
    share = to.node("Add", to.node("Erf", to.node("Div", "x", root)), one)
    to.node("Mul", to.node("Mul", "x", share), half, output="y")


def call(to: Nodes, form: Form, inputs: int, outputs: int) -> None:  # noqa: ARG001 (it computes nothing)
    """Write an operator that takes no time."""
    to.node("Relu", "x", output="y")


WRITERS: dict[Operation, Callable[[Nodes, Form, int, int], None]] = {
    "call": call,
    "linear": linear,
    "attention": attention,
    "normalization": normalization,
    "activation": activation,
}
LINKS: dict[Operation, Callable[[Nodes, Form, str, int, int], str]] = {
    "convolution": convolution,
    "depthwise": depthwise,
    "addition": addition,
}
"""Layers of images, which are written one behind another: each returns what it makes."""
NAMES: dict[Operation, tuple[str, ...]] = {"attention": ("x", "k", "v"), "normalization": ("x", "k"), "addition": ("x", "k")}
"""Inputs of a graph that has more than x."""


def _chain(to: Nodes, operation: Operation, form: Form, inputs: int, outputs: int, links: int) -> None:
    value, widths = "x", (inputs, outputs)
    for _ in range(links):
        value = LINKS[operation](to, form, value, *widths)
        widths = widths[::-1]
    if form == "float32":
        to.nodes[-1].output[0] = "y"
    else:
        _rounded(to, form, value, "y")


def write(operation: Operation, form: Form, inputs: int, outputs: int, folder: Path, *, side: int = 0, links: int = 1) -> None:
    """Write folder/model.onnx with one layer; the number of rows is free.

    side: of the images of an operation of images. links: how many such layers lie one behind another, an odd number; every
    other one goes the opposite way, from `outputs` to `inputs` channels.
    """
    to = Nodes()
    torch.manual_seed(0)
    if operation in OF_IMAGES:
        _chain(to, operation, form, inputs, outputs, links)
    else:
        WRITERS[operation](to, form, inputs, outputs)

    def shape(width: int) -> Shape:
        if operation in OF_IMAGES:
            return ["rows", width, side, side]
        return ["rows", "tokens", width] if operation == "attention" else ["rows", width]

    made = inputs if operation == "attention" else outputs
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape(inputs)) for name in NAMES.get(operation, ("x",))]
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape(made))
    graph = helper.make_graph(to.nodes, "layer", given, [answer], list(to.initializers.values()))
    opset, version = BLOCKS
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)
    onnx.checker.check_model(proto)
    (folder / FILE).write_bytes(proto.SerializeToString())


def drawn_inputs(operation: Operation, inputs: int, places: int, batch: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw what the layer reads, small enough that no sum saturates. places: tokens of a row, or pixels of a square image."""
    side, draw = round(sqrt(places)), np.random.default_rng(0)
    size = 0.2 if operation == "addition" else 1.0
    if operation in OF_IMAGES:
        shape: tuple[int, ...] = (batch, inputs, side, side)
    else:
        shape = (batch, places, inputs) if operation == "attention" else (batch * places, inputs)
    return {name: draw.normal(scale=size, size=shape).astype(np.float32) for name in NAMES.get(operation, ("x",))}
