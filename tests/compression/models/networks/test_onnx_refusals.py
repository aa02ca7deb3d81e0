"""ONNX files that are no networks of images, or that somebody made to do harm, are refused in words and within bounds."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from onnx import TensorProto, helper

from compression.models.networks.onnx_reader import read_onnx
from compression.schema.errors import CompressionError, DamagedCheckpoint, UnsupportedArchitecture, UnsupportedOperator
from tests.support.onnx_files import proto, save

FREE = ("rows", 3, 8, 8)
HEAD = {"w": np.ones((192, 4), np.float32), "two": np.array([2], np.int64), "huge": np.array([2**40], np.int64)}


def op(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def plain(*before: onnx.NodeProto, last: str = "image", **more: Any) -> onnx.ModelProto:
    """Return a linear network behind some other nodes, of which `last` is the output."""
    return proto([*before, op("Flatten", last, "f"), op("Gemm", "f w", "logits")], HEAD, **more)


def changed(change: Callable[[onnx.ModelProto], object], **more: Any) -> onnx.ModelProto:
    model = plain(**more)
    change(model)
    return model


def refusal(model: onnx.ModelProto | bytes, folder: Path) -> CompressionError:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(CompressionError) as caught:
        read_onnx(path)
    assert caught.value.param is not None
    assert caught.value.param.startswith("model.onnx")
    return caught.value


def test_the_network_that_the_others_spoil_is_read(tmp_path: Path) -> None:
    assert [node.op for node in read_onnx(save(plain(), tmp_path))[0].nodes] == ["reshape", "linear"]


IF = helper.make_node(
    "If", ["yes"], ["y"], then_branch=helper.make_graph([], "a", [], []), else_branch=helper.make_graph([], "b", [], [])
)
OPERATORS = {
    "If": plain(IF),
    "Loop": plain(op("Loop", "two", "y", body=helper.make_graph([], "body", [], []))),
    "NonMaxSuppression": plain(op("NonMaxSuppression", "image image", "y")),
    "com.evil.Run": plain(op("Run", "image", "y", domain="com.evil")),
    "QuantizeLinear": plain(op("QuantizeLinear", "image two", "y")),
    "LSTM": plain(op("LSTM", "image w w", "y")),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_that_is_on_no_list_is_named(name: str, tmp_path: Path) -> None:
    found = refusal(OPERATORS[name], tmp_path)
    assert isinstance(found, UnsupportedOperator)
    assert name in found.cause


FORMS = {
    "another input": (changed(lambda m: m.graph.input.append(m.graph.input[0])), "2 inputs"),
    "two outputs": (changed(lambda m: m.graph.output.append(m.graph.output[0])), "2 outputs"),
    "always two rows": (plain(shape=(2, 3, 8, 8)), "always 2 rows"),
    "free height": (plain(shape=("rows", 3, "height", 8)), "not known"),
    "channels last": (plain(shape=("rows", 8, 8, 3)), "channels last"),
    "three axes": (plain(shape=("rows", 3, 8)), "not (rows, channels, height, width)"),
    "an image too large": (plain(shape=("rows", 3, 2**20, 2**20)), "the most"),
    "half precision": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16)),
        "float16 and not float32",
    ),
    "a sequence": (changed(lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent()), "no tensor"),
    "an output that nothing makes": (plain(output="other"), "'other' has the shape"),
    "an old set of operators": (plain(opset=7), "operator set [7]"),
    "a set to come": (plain(opset=99), "operator set [99]"),
    "functions": (
        changed(lambda m: m.functions.append(helper.make_function("own", "f", [], [], [], []))),
        "functions of its own, such as 'f'",
    ),
    "a training graph": (changed(lambda m: m.training_info.add()), "training graph"),
    "weights elsewhere": (
        changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="../../../etc/passwd")),
        "weights in other files: 'w'",
    ),
    "sparse weights": (changed(lambda m: m.graph.sparse_initializer.add()), "sparse"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_another_form_is_refused(name: str, tmp_path: Path) -> None:
    model, words = FORMS[name]
    found = refusal(model, tmp_path)
    assert isinstance(found, UnsupportedArchitecture | UnsupportedOperator)
    assert words in found.cause


def test_a_network_that_ends_in_probabilities_is_refused(tmp_path: Path) -> None:
    model = plain(output="shares")
    model.graph.node.append(op("Softmax", "logits", "shares"))
    found = refusal(model, tmp_path)
    assert "probabilities and not logits" in found.cause
    assert "without its last activation" in found.remedy_text


@pytest.mark.parametrize(
    ("kind", "last"), [("Softmax", [op("Flatten", "s", "shares")]), ("Sigmoid", [op("Squeeze", "s axes", "shares")])]
)
def test_probabilities_that_are_laid_out_again_are_refused(kind: str, last: list[onnx.NodeProto], tmp_path: Path) -> None:
    before = [op("Conv", "image k", "c"), op("GlobalAveragePool", "c", "p"), op(kind, "p", "s")]
    weights = {"k": np.ones((4, 3, 1, 1), np.float32), "axes": np.array([2, 3], np.int64)}
    if kind == "Softmax":
        before[-1].attribute.append(helper.make_attribute("axis", 1))
    found = refusal(proto([*before, *last], weights, output="shares"), tmp_path)
    assert "probabilities and not logits" in found.cause


def test_logarithms_of_probabilities_are_refused_with_what_to_do(tmp_path: Path) -> None:
    model = plain(output="shares")
    model.graph.node.append(op("LogSoftmax", "logits", "shares"))
    assert "without its last activation" in refusal(model, tmp_path).remedy_text


CONSTANTS = {
    "a constant without an end": [op("ConstantOfShape", "huge", "y")],
    "a repetition without an end": [op("Expand", "w huge", "y")],
    "a range without an end": [op("Range", "two huge two", "y")],
    "tiles without an end": [op("Tile", "two huge", "y")],
    "doubling": [op("Concat", " ".join(["w"] * 8), "y0", axis=0)]
    + [op("Concat", " ".join([f"y{number}"] * 8), f"y{number + 1}", axis=0) for number in range(9)],
    "pads without an end": [op("Conv", "image k", "y", pads=[2**40] * 4)],
    "a slice of nothing": [op("Slice", "image huge huge", "y")],
    "a graph that reads its own end": [op("Add", "image z", "y"), op("Relu", "y", "z")],
    "a value that is nowhere": [op("Add", "image nowhere", "y")],
    "a division by zero": [op("Sub", "two two", "z"), op("Mod", "two z", "y"), op("Reshape", "image y", "z2")],
    "rows taken apart": [op("Slice", "image two two", "y", axes=[0])],
    "rows in two axes": [op("Shape", "image", "s"), op("Concat", "s s", "s2", axis=0), op("Reshape", "image s2", "y")],
    "a weight that is computed": [op("Conv", "image image", "y")],
    "no inputs": [op("Relu", "", "y")],
    "numbers of other types": [op("Cast", "image", "y", to=TensorProto.FLOAT16)],
    "an attribute of another kind": [op("Concat", "image image", "y", axis="one")],
    "an attribute that is missing": [op("MaxPool", "image", "y")],
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_operators_that_cannot_be_computed_are_refused_at_once(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = refusal(plain(*CONSTANTS[name], last="y"), tmp_path)
    assert isinstance(found, UnsupportedOperator)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "in kilobytes: less than 1 GiB more"


def test_two_values_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "two values 'f'" in refusal(plain(op("Relu", "image", "f")), tmp_path).cause


@pytest.mark.parametrize("dims", [(192, 5), (2**31, 2**31), (-1,), (1,) * 70])
def test_weights_of_another_size_than_their_shape_are_refused(dims: tuple[int, ...], tmp_path: Path) -> None:
    model = plain()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    assert "the tensor 'w'" in refusal(model, tmp_path).cause


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that has a length."""
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


BOMBS = {
    "empty operators without an end": field(7, field(1, b"") * 11_000),
    "graphs within graphs": b"",
    "numbers that swell": field(7, field(5, field(7, b"\1" * (9 << 20)))),
    "a text without an end": field(2, b"x" * (65 << 20)),
    "a field beyond the end": b"\x3a\xff\xff\xff\xff\x7f",
    "no fields": b"\xff" * 64,
    "groups": b"\x0b\x0c",
    "nothing": b"",
}
for _ in range(40):  # the model's graph, its node, its attribute, the attribute's graph, …
    BOMBS["graphs within graphs"] = field(1, field(5, field(6, BOMBS["graphs within graphs"])))
BOMBS["graphs within graphs"] = field(7, BOMBS["graphs within graphs"])


@pytest.mark.parametrize("name", BOMBS)
def test_bytes_that_would_swell_are_refused_before_they_are_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compression.models.networks.onnx_reading.model_file.MOST_FIELDS", 10_000)
    monkeypatch.setattr("compression.models.networks.onnx_reading.model_file.onnx.ModelProto.ParseFromString", None)
    assert isinstance(refusal(BOMBS[name], tmp_path), DamagedCheckpoint)


WHOLE = plain(op("Relu", "image", "y"), last="y").SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), cut=st.booleans())
@example(place=WHOLE.index(b"Relu"), byte=0x80, cut=False)  # an operator's name that is no UTF-8 is bytes
def test_any_damage_is_refused_or_harmless(place: int, byte: int, cut: bool, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(WHOLE[:place] if cut else WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
    try:
        graph, tensors = read_onnx(path)
    except CompressionError as problem:
        assert problem.remedy_text  # noqa: PT017
    else:
        assert {name: array.shape for name, array in tensors.items()} == graph.tensors()


def test_names_are_those_that_a_network_can_have(tmp_path: Path) -> None:
    names = ["", "../../etc/passwd", "1/2", "x" * 5000, "añö", "input", "same", "same"]
    nodes = []
    for number, name in enumerate(names):
        node = op("Sigmoid", f"v{number}" if number else "image", f"v{number + 1}")
        node.name = name
        nodes.append(node)
    graph, _ = read_onnx(save(plain(*nodes, last=f"v{len(names)}"), tmp_path))
    found = [node.name for node in graph.nodes]
    assert len(set(found)) == len(found)
    assert max(map(len, found)) < 100
    assert {"same", "same_2"} < set(found)
