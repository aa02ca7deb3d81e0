"""Every operator in torch is what its definition says, in the shape that the graph states."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compression.models.adapters.network.operators import TORCH, compute
from compression.models.adapters.network.parts import part_of
from compression.models.networks.graph import INPUT, Graph, Node, Value
from compression.models.networks.operators import OPERATORS
from compression.models.networks.value_shapes import value_shapes

WINDOW: dict[str, Value] = {"kernel": (3, 3), "stride": (2, 2), "ceil": 0}
CASES: dict[str, tuple[str, dict[str, Value], dict[str, tuple[int, ...]]]] = {
    "conv": ("conv", {"stride": (2, 1), "padding": (0, 1, 1, 0), "dilation": (1, 2), "groups": 2}, {"weight": (6, 2, 3, 2)}),
    "max_pool": ("max_pool", {**WINDOW, "padding": (1, 1, 1, 1), "dilation": (1, 1)}, {}),
    "max_pool, one side": ("max_pool", {**WINDOW, "padding": (0, 0, 1, 1), "dilation": (1, 1)}, {}),
    "max_pool, wide": ("max_pool", {**WINDOW, "padding": (2, 2, 2, 2), "dilation": (1, 1)}, {}),
    "average_pool": ("average_pool", {**WINDOW, "padding": (1, 1, 1, 1), "count_padding": 1}, {}),
    "average_pool, one side": ("average_pool", {**WINDOW, "padding": (0, 0, 1, 1), "count_padding": 0}, {}),
    "average_pool, ceil": ("average_pool", {**WINDOW, "ceil": 1, "padding": (0, 0, 0, 0), "count_padding": 0}, {}),
    "linear": ("linear", {}, {"weight": (3, 6), "bias": (3,)}),
    "batch_norm": ("batch_norm", {"epsilon": 1e-3}, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (4,))),
    "layer_norm": ("layer_norm", {"epsilon": 1e-6}, {"weight": (6,)}),
    "prelu": ("prelu", {}, {"slope": (4, 1, 1)}),
    "softmax": ("softmax", {"axis": 1}, {}),
    "reduce_mean": ("reduce_mean", {"axes": (2, 3), "keep": 0}, {}),
    "reduce_max": ("reduce_max", {"axes": (-1,), "keep": 1}, {}),
    "slice": ("slice", {"axis": 1, "start": 1, "end": 4, "step": 2}, {}),
    "pad": ("pad", {"pads": (1, 0, 0, 2, 3, 1), "value": 2.0}, {}),
    "reshape": ("reshape", {"shape": (2, 2, 42)}, {}),
    "transpose": ("transpose", {"order": (0, 3, 1, 2)}, {}),
    "resize, nearest": ("resize", {"size": (14, 9), "mode": "nearest", "coordinates": "asymmetric"}, {}),
    "resize, linear": ("resize", {"size": (5, 13), "mode": "linear", "coordinates": "half_pixel"}, {}),
    "clip": ("clip", {"low": -0.5, "high": 0.25}, {}),
    "gelu": ("gelu", {"approximate": "tanh"}, {}),
    "hard_sigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}, {}),
}


def test_every_operator_is_computed() -> None:
    assert set(TORCH) == set(OPERATORS)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_value_has_the_shape_that_its_graph_states(case: str) -> None:
    operator, attributes, tensors = CASES[case]
    node = Node(name="one", op=operator, inputs=(INPUT,), attributes=attributes, tensors=tensors)
    expected = value_shapes(Graph(shape=(4, 7, 6), nodes=(node,), output="one"))["one"]
    found = compute(node, part_of(node).eval() if tensors else None, [torch.randn(3, 4, 7, 6)], 3)
    assert found.shape == (3 * expected[0], *expected[1:])
    assert found.isfinite().all()


def computed(operator: str, *inputs: Tensor, **attributes: Any) -> Tensor:
    names = tuple(f"in{number}" for number in range(len(inputs)))
    return compute(Node(name="one", op=operator, inputs=names, attributes=attributes), None, inputs, len(inputs[0]))


def test_padding_of_one_side_is_what_a_wider_map_gives() -> None:
    value = torch.randn(2, 4, 6, 6)
    wider = torch.nn.functional.pad(value, (0, 1, 0, 1), value=-torch.inf)
    pooled = computed("max_pool", value, **WINDOW, padding=(0, 0, 1, 1), dilation=(1, 1))
    assert torch.equal(pooled, torch.nn.functional.max_pool2d(wider, 3, 2))
    mean = computed("average_pool", value, **WINDOW, padding=(0, 0, 1, 1), count_padding=0)
    assert torch.allclose(mean[:, :, -1, -1], value[:, :, 4:, 4:].mean(dim=(2, 3)), atol=1e-6)
    counted = computed("average_pool", value, **WINDOW, padding=(0, 0, 1, 1), count_padding=1)
    assert torch.allclose(counted[:, :, -1, -1], value[:, :, 4:, 4:].sum(dim=(2, 3)) / 9, atol=1e-6)


@pytest.mark.parametrize("size", [(14, 12), (3, 4), (7, 13), (1, 1)])
def test_resizing_is_what_torch_computes(size: tuple[int, int]) -> None:
    value = torch.randn(2, 4, 7, 6)
    asked = {"half_pixel": False, "align_corners": True}
    for coordinates, corners in asked.items():
        ours = computed("resize", value, size=size, mode="linear", coordinates=coordinates)
        theirs = torch.nn.functional.interpolate(value, size, mode="bilinear", align_corners=corners)
        assert torch.allclose(ours, theirs, atol=1e-6)
    ours = computed("resize", value, size=size, mode="nearest", coordinates="asymmetric")
    assert torch.equal(ours, torch.nn.functional.interpolate(value, size, mode="nearest"))


def test_a_constant_gets_a_batch_axis() -> None:
    constant = torch.randn(1, 1, 8)
    node = Node(name="one", op="expand", inputs=("token",), attributes={"shape": (2, 5, 8)})
    assert torch.equal(compute(node, None, [constant], 3), constant.expand(6, 5, 8))
