"""Axes that an ONNX file moves, merges and splits, wherever it takes the batch, give the numbers that numpy gives."""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings, strategies as st
from onnx import helper

from compression.models.networks.onnx_reader import read_onnx
from tests.support.onnx_files import Arrays, answers, proto, save

Sizes = tuple[int, ...]
"""Of axes; 0 is the one that has the rows in it."""


@dataclass
class Moves:
    """A chain of nodes, and the sizes of the value at its end. inner: of the axis with the rows: times how many."""

    sizes: Sizes = (0, 4, 2, 6)
    outer: Sizes = ()  #: axes that were merged before the rows into their axis
    inner: Sizes = ()  #: and behind them
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: Arrays = field(default_factory=dict)

    def add(self, kind: str, *weights: np.ndarray[Any, Any], **attributes: Any) -> None:
        count = len(self.nodes)
        names = [f"c{count}_{number}" for number in range(len(weights))]
        self.weights |= dict(zip(names, weights, strict=True))
        value = f"v{count}" if count else "image"
        self.nodes.append(helper.make_node(kind, [value, *names], [f"v{count + 1}"], **attributes))

    def reshape(self, sizes: Sizes) -> None:
        self.add("Reshape", np.array([-1 if size == 0 else size for size in sizes], np.int64))
        self.sizes = sizes

    def transpose(self, order: list[int]) -> None:
        self.add("Transpose", perm=order)
        self.sizes = tuple(self.sizes[axis] for axis in order)

    def merge(self, axis: int) -> None:
        """Merge an axis with the one behind it."""
        first, second = self.sizes[axis : axis + 2]
        if second == 0:
            self.outer = (first, *self.outer)
        if first == 0:
            self.inner = (*self.inner, second)
        self.reshape((*self.sizes[:axis], first * second, *self.sizes[axis + 2 :]))

    def split(self, axis: int, part: int) -> None:
        """Split an axis; that of the rows gives back what was merged into it."""
        size = self.sizes[axis]
        if size:
            self.reshape((*self.sizes[:axis], part, size // part, *self.sizes[axis + 1 :]))
        elif self.outer or self.inner:
            given = (*self.outer, 0, *self.inner)
            self.outer = self.inner = ()
            self.reshape((*self.sizes[:axis], *given, *self.sizes[axis + 1 :]))


@st.composite
def chains(draw: st.DrawFn) -> Moves:
    moves, numbers = Moves(), np.random.default_rng(draw(st.integers(0, 9)))
    for kind in draw(st.lists(st.sampled_from("tttmmssncla"), min_size=3, max_size=9)):
        axes = len(moves.sizes)
        if kind == "t":
            moves.transpose(draw(st.permutations(range(axes))))
        elif kind == "m" and axes > 1:
            moves.merge(draw(st.integers(0, axes - 2)))
        elif kind == "s" and axes < 7:
            axis = draw(st.integers(0, axes - 1))
            moves.split(axis, draw(st.sampled_from([part for part in (1, 2, 3) if moves.sizes[axis] % part == 0])))
        elif kind == "n":
            moves.add("Neg")
        elif kind == "c" and moves.sizes[-1]:
            moves.add("Mul", numbers.standard_normal(moves.sizes[-1]).astype(np.float32))
        elif kind == "l" and moves.sizes[-1]:
            outputs = 2 * moves.sizes[-1]
            moves.add("MatMul", numbers.standard_normal((moves.sizes[-1], outputs)).astype(np.float32) / moves.sizes[-1])
            moves.sizes = (*moves.sizes[:-1], outputs)
        elif kind == "a" and moves.sizes[0]:
            moves.add("ReduceSum", np.array([0], np.int64), keepdims=0)
            moves.sizes = moves.sizes[1:]
    if 0 in moves.sizes and (moves.outer or moves.inner):
        moves.split(moves.sizes.index(0), 1)
    rows = moves.sizes.index(0)
    moves.transpose([rows, *(axis for axis in range(len(moves.sizes)) if axis != rows)])
    moves.reshape((0, prod(size for size in moves.sizes if size)))
    return moves


def computed(moves: Moves, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what the chain computes, by numpy."""
    value = images
    for node in moves.nodes:
        given = [moves.weights[name] for name in node.input[1:]]
        value = {
            "Transpose": lambda: value.transpose(node.attribute[0].ints),  # noqa: B023 - called at once
            "Reshape": lambda: value.reshape(given[0]),  # noqa: B023
            "Neg": lambda: -value,  # noqa: B023
            "Mul": lambda: value * given[0],  # noqa: B023
            "MatMul": lambda: value @ given[0],  # noqa: B023
            "ReduceSum": lambda: value.sum(0),  # noqa: B023
        }[node.op_type]()
    return value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=chains())
def test_axes_are_followed_wherever_the_batch_goes(moves: Moves, tmp_path: Path) -> None:
    graph, tensors = read_onnx(
        save(proto(moves.nodes, moves.weights, ("rows", 4, 2, 6), output=f"v{len(moves.nodes)}"), tmp_path)
    )
    for rows in (1, 3):
        images = np.random.default_rng(rows).standard_normal((rows, 4, 2, 6)).astype(np.float32)
        found, wanted = answers(graph, tensors, images), computed(moves, images)
        assert found.shape == wanted.shape
        assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)
