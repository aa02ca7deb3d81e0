"""Every value of a network has a shape, and a node that does not fit is refused by its name."""

from typing import Any

import pytest

from compression.models.networks.graph import Graph, Node
from compression.models.networks.operators import OPERATORS
from compression.models.networks.value_shapes import MOST_ELEMENTS, SHAPES, value_shapes

CONV = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}


def node(name: str, op: str, *inputs: str, tensors: dict[str, tuple[int, ...]] | None = None, **attributes: Any) -> Node:
    return Node(name=name, op=op, inputs=inputs, attributes=attributes, tensors=tensors or {})


def shapes_of(*nodes: Node, shape: tuple[int, int, int] = (3, 8, 6)) -> dict[str, tuple[int, ...]]:
    return value_shapes(Graph(shape=shape, nodes=nodes, output=nodes[-1].name))


def conv(name: str, value: str, outputs: int, inputs: int, **changes: Any) -> Node:
    weight = changes.pop("weight", (outputs, inputs, 3, 3))
    return node(name, "conv", value, tensors={"weight": weight}, **{**CONV, **changes})


def test_every_operator_has_a_shape() -> None:
    assert SHAPES.keys() == OPERATORS.keys()


def test_a_small_network_of_two_branches_and_windows_has_the_shapes_that_it_computes() -> None:
    shapes = shapes_of(
        conv("stem", "input", 8, 3, stride=(2, 2)),
        conv("wise", "stem", 8, 1, groups=8),
        node("sum", "add", "stem", "wise"),
        node("both", "concat", "sum", "stem", axis=1),
        node("pooled", "max_pool", "both", kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0), ceil=1, dilation=(1, 1)),
        node("windows", "reshape", "pooled", shape=(2, 16, 1, 2)),
        node("rows", "reshape", "windows", shape=(1, 2, 16, 2)),
        node("turned", "transpose", "rows", order=(0, 3, 1, 2)),
        node("token", "constant", tensors={"value": (1, 1, 1, 16)}),
        node("tokens", "expand", "token", shape=(1, 2, 1, 16)),
        node("longer", "concat", "tokens", "turned", axis=2),
        node("one", "slice", "longer", axis=2, start=0, end=1, step=1),
        node("flat", "reduce_mean", "one", axes=(1, 2), keep=0),
        node("logits", "linear", "flat", tensors={"weight": (5, 16), "bias": (5,)}),
    )
    assert shapes["stem"] == shapes["sum"] == (1, 8, 4, 3)
    assert shapes["pooled"] == (1, 16, 2, 2)
    assert shapes["windows"] == (2, 16, 1, 2), "the batch's factor comes first"
    assert shapes["longer"] == (1, 2, 3, 16)
    assert shapes["logits"] == (1, 5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (conv("wrong", "input", 8, 4), "3 channels"),
        (conv("wrong", "input", 8, 3, weight=(8, 3, 3)), "weight"),
        (conv("wrong", "input", 8, 1, groups=2), "2 groups"),
        (conv("wrong", "input", 8, 3, padding=(0, 0, 0, 0), dilation=(4, 4)), "does not fit into 8"),
        (node("wrong", "concat", "input", "half", axis=1), "differ"),
        (node("wrong", "concat", "input", "input", axis=0), "axis 0"),
        (node("wrong", "add", "input", "flat"), "batch axis"),
        (node("wrong", "add", "fixed", "fixed"), "no batch axis"),
        (node("wrong", "add", "fixed", "input"), "for each row"),
        (node("wrong", "relu", "fixed"), "no batch axis"),
        (node("wrong", "linear", "flat", tensors={"weight": (5, 143)}), "weight"),
        (node("wrong", "slice", "input", axis=1, start=2, end=4, step=1), "2:4:1"),
        (node("wrong", "reshape", "input", shape=(1, 3, 47)), "elements"),
        (node("wrong", "transpose", "input", order=(1, 0, 2, 3)), "order"),
        (node("wrong", "matmul", "input", "input"), "multiply"),
        (node("wrong", "reduce_sum", "input", axes=(0, 1), keep=1), "axis 0"),
        (node("wrong", "pad", "input", pads=(0, 0), value=0.0), "pads"),
        (
            node("wrong", "batch_norm", "input", epsilon=1e-5, tensors=dict.fromkeys(OPERATORS["batch_norm"].roles, (4,))),
            "(4,)",
        ),
        (node("wrong", "resize", "input", size=(1 << 20, 1 << 20), mode="nearest", coordinates="half_pixel"), "are the most"),
        (node("wrong", "constant", tensors={"value": (MOST_ELEMENTS + 1,)}), "are the most"),
    ],
)
def test_a_node_that_does_not_fit_is_named(wrong: Node, words: str) -> None:
    first = (
        node("half", "slice", "input", axis=2, start=0, end=4, step=1),
        node("flat", "reshape", "input", shape=(1, 144)),
        node("fixed", "constant", tensors={"value": (2, 3, 8, 6)}),
    )
    with pytest.raises(ValueError, match="wrong") as caught:
        shapes_of(*first, wrong)
    assert words in str(caught.value)


def test_an_input_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="the input"):
        shapes_of(node("same", "relu", "input"), shape=(3, 1 << 16, 1 << 16))
