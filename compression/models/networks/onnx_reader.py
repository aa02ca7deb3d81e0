"""Read an ONNX file that anybody may have made as a network: its operators in normal forms, and its weights.

Nothing is run and no other file is opened. What is not on the lists of `onnx_reading` is refused by its name.
"""

from pathlib import Path

import onnx

from compression.models.networks.graph import INPUT, Graph, Shape
from compression.models.networks.onnx_reading.call import Call
from compression.models.networks.onnx_reading.channel_means import without_channel_means
from compression.models.networks.onnx_reading.constants import Array, Known, known, tensor_array, type_name
from compression.models.networks.onnx_reading.draft import Draft, node_hint
from compression.models.networks.onnx_reading.folding import FOLDED, Folding
from compression.models.networks.onnx_reading.layout import Size, Value, plain, value_of
from compression.models.networks.onnx_reading.model_file import DOMAINS, attributes, open_model
from compression.models.networks.onnx_reading.operators import OPERATORS
from compression.models.networks.onnx_reading.patterns import simplified
from compression.models.networks.value_shapes import MOST_ELEMENTS
from compression.schema.errors import DamagedCheckpoint, UnsupportedArchitecture, UnsupportedOperator, listed

FREE_BATCH = (
    "Export it with a free batch: torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), "
    "or dynamic_axes={name: {0: 'batch'}} of the older exporter."
)
FIXED_SIZE = "Export it for images of one size, with the batch axis alone free."
FLOAT32 = "Export the network in float32, before it is converted to half precision or quantized."
LOGITS = "Export the network without its last activation."
IMAGES = "Export the network so that it takes float32 images (rows, channels, height, width) and returns logits (rows, labels)."
LAYS_OUT = ("reshape", "transpose")
"""Operators that lay a value out otherwise and compute nothing."""
HINDRANCES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What arithmetic with a hostile file's numbers raises."""


def read_onnx(path: Path) -> tuple[Graph, dict[str, Array]]:
    """Return a file's network and its float32 tensors by their names ("node.role").

    Raises DamagedCheckpoint if the file is not whole or not consistent, UnsupportedArchitecture if it is not one network from
    float32 images of one size to logits with the number of rows free, UnsupportedOperator for an operator, or a form of one,
    that is not on the lists.
    """
    model, opset = open_model(path)
    graph = model.graph
    _check_operators(graph, path.name)
    draft = Draft(_image(graph, path.name))
    reading = _Reading(graph, draft, opset, path.name)
    for node in graph.node:
        reading.read(node)
    return _finished(draft, reading.logits(), path.name)


class _Reading:
    """The values of an ONNX graph so far, by the file's names."""

    def __init__(self, graph: onnx.GraphProto, draft: Draft, opset: int, file: str) -> None:
        self._draft, self._opset, self._file = draft, opset, file
        self._output = graph.output[0].name
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, Value | Known] = {_inputs(graph)[0].name: value_of(draft, INPUT)}
        self._folding = Folding()
        self._misordered = {name for node in graph.node for name in node.output}

    def read(self, node: onnx.NodeProto) -> None:
        """Turn one operator into nodes, or compute it."""
        try:
            found = self._results(node)
        except HINDRANCES as problem:
            name = f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r:.200}"
            param = f"{self._file}:{node.name[:200]}"
            raise UnsupportedOperator(f"{self._file}: {name}: {str(problem)[:500]}", param=param) from problem
        for output, value in zip(node.output, found, strict=False):
            if output and (output in self._values or output in self._weights):
                raise DamagedCheckpoint(f"{self._file} has two values {output!r:.200}", param=self._file)
            self._values[output] = value
        for output in node.output[len(found) :]:
            self._values.pop(output, None)

    def _results(self, node: onnx.NodeProto) -> list[Value | Known]:
        inputs = [self._value(name) for name in node.input]
        given, outputs = attributes(node), len(node.output)
        if node.op_type in FOLDED and all(value is None or isinstance(value, Known) for value in inputs):
            return [*self._folding.fold(node.op_type, [one for one in inputs if not isinstance(one, Value)], given, outputs)]
        if node.op_type not in OPERATORS:
            raise ValueError("Lathe has it for shapes and weights only, not for what depends on the image")
        hint = node_hint(node.name, node.op_type)
        found = OPERATORS[node.op_type](Call(node.op_type, hint, inputs, given, self._draft, self._opset, outputs))
        return [*found] if isinstance(found, list) else [found]

    def _value(self, name: str) -> Value | Known | None:
        if not name:
            return None
        if name not in self._values and name in self._weights:
            self._values[name] = known(tensor_array(self._weights[name]), "" if "::" in name else name)
        if name not in self._values:
            where = "is made by a later operator, or not at all" if name in self._misordered else "is not in the graph"
            raise ValueError(f"its input {name!r:.200} {where}")
        return self._values[name]

    def logits(self) -> str:
        """Return the name of the node that makes the output. Raises UnsupportedArchitecture if its shape is another."""
        found = self._values.get(self._output)
        value = plain(self._draft, found) if isinstance(found, Value) else None
        if value is None or len(value.shape) != 2 or value.shape[0] != Size(1, batch=True):
            shape = (
                [f"{size.factor} × rows" if size.batch else size.factor for size in found.shape]
                if isinstance(found, Value)
                else "?"
            )
            cause = f"{self._file}: the output {self._output!r:.200} has the shape {shape} and not (rows, labels)"
            raise UnsupportedArchitecture(cause, param=self._file, remedy=IMAGES)
        return value.name


def _check_operators(graph: onnx.GraphProto, file: str) -> None:
    """Refuse a graph with operators that are on no list, all of them at once."""
    foreign = {f"{node.domain}.{node.op_type}" for node in graph.node if node.domain not in DOMAINS}
    own = {str(node.op_type) for node in graph.node if node.domain in DOMAINS} - OPERATORS.keys() - FOLDED.keys()
    if unknown := sorted(foreign | own):
        remedy = FLOAT32 if any("Linear" in name or "Integer" in name for name in unknown) else None
        remedy = LOGITS if unknown == ["LogSoftmax"] else remedy
        cause = f"{file} has operators that are not supported: {listed([name[:100] for name in unknown])}"
        raise UnsupportedOperator(cause, param=file, remedy=remedy)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _image(graph: onnx.GraphProto, file: str) -> Shape:
    """Return (channels, height, width) of the only input. Raises UnsupportedArchitecture if it is no batch of images."""

    def refused(cause: str, remedy: str = IMAGES) -> UnsupportedArchitecture:
        return UnsupportedArchitecture(f"{file}: {cause}", param=file, remedy=remedy)

    inputs = _inputs(graph)
    if len(inputs) != 1 or len(graph.output) != 1:
        names = listed([value.name[:100] for value in [*inputs, *graph.output]])
        raise refused(f"it has {len(inputs)} inputs and {len(graph.output)} outputs ({names}), not one of each")
    for value in (inputs[0], graph.output[0]):
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind != onnx.TensorProto.FLOAT:
            what = type_name(kind) if value.type.HasField("tensor_type") else "no tensor"
            raise refused(f"{value.name!r:.100} is {what} and not float32", FLOAT32)
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in inputs[0].type.tensor_type.shape.dim]
    text = f"({', '.join('free' if size is None else str(size) for size in sizes[:9])})"
    if len(sizes) != 4:
        raise refused(f"its input has the shape {text} and not (rows, channels, height, width)")
    rows, *image = sizes
    if rows is not None and rows > 0:
        raise refused(f"its input has the shape {text}: always {rows} rows", FREE_BATCH)
    known_sizes = [size for size in image if size is not None and 0 < size <= MOST_ELEMENTS]
    if len(known_sizes) != 3:
        raise refused(f"its input has the shape {text}: channels, height and width are not known", FIXED_SIZE)
    channels, height, width = known_sizes
    if channels > 4 and width <= 4:
        raise refused(f"its input has the shape {text}, with the channels last")
    return channels, height, width


def _finished(draft: Draft, output: str, file: str) -> tuple[Graph, dict[str, Array]]:
    nodes, tensors, output = simplified(draft, output)
    by_name = {node.name: node for node in nodes}
    last = by_name.get(output)
    while last is not None and last.op in LAYS_OUT:
        last = by_name.get(last.inputs[0])
    if last is not None and last.op in ("softmax", "sigmoid") and _is_vector(draft.shapes[last.name]):
        cause = f"{file}: its output is a {last.op}: probabilities and not logits"
        raise UnsupportedArchitecture(cause, param=file, remedy=LOGITS)
    try:
        found = Graph(shape=draft.shapes[INPUT][1:], nodes=tuple(nodes), output=output)
        return without_channel_means(found, tensors, draft.unique)
    except ValueError as problem:
        raise UnsupportedArchitecture(f"{file}: {str(problem)[:500]}", param=file, remedy=IMAGES) from problem


def _is_vector(shape: Shape) -> bool:
    """Return whether a value has one axis of several numbers at most: shares of labels, and not of places."""
    return sum(size > 1 for size in shape) <= 1
