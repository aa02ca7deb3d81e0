"""Short names in an ONNX graph: of a small network in int8, long ones are some 6 % of the file."""

import string
from collections.abc import Iterator
from itertools import count, product

import onnx

LETTERS = string.ascii_letters + string.digits


def shorten_names(proto: onnx.ModelProto) -> None:
    """Give short names to all values and tensors but the graph's inputs and outputs, in place.

    A node that writes a value of the network (`conv1:0`) is named after it (`conv1`), which profiles show; any other has the
    name of what it writes. No subgraphs.
    """
    graph = proto.graph
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    used = set(short.values())
    unused = (name for name in _names() if name not in used)
    short[""] = ""  # an input that is left out
    for node in graph.node:
        layer, _, place = node.output[0].rpartition(":")
        for names in (node.input, node.output):
            names[:] = [short[name] if name in short else short.setdefault(name, next(unused)) for name in names]
        node.name = layer if place == "0" else node.output[0]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]


def _names() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(LETTERS, repeat=length))
