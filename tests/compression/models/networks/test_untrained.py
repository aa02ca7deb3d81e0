"""Of a file's constants, masks, scales of images and tables of distances are found, and nothing else is."""

import numpy as np
import pytest

from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.untrained import by_distance, constants_of, window_of
from compression.models.networks.window_distances import distances

DRAW = np.random.default_rng(0)
TABLE = DRAW.standard_normal((2, 25)).astype(np.float32)


def graph_of(shape: tuple[int, ...]) -> Graph:
    """Return a network that adds a constant, "own.value", to what a convolution makes of images."""
    conv = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    nodes = (
        Node(name="conv", op="conv", inputs=(INPUT,), attributes=conv, tensors={"weight": (3, 3, 1, 1)}),
        Node(name="own", op="constant", tensors={"value": shape}),
        Node(name="sum", op="add", inputs=("conv", "own")),
    )
    return Graph(shape=(3, 9, 9), nodes=nodes, output="sum")


@pytest.mark.parametrize(
    ("value", "fixed"),
    [
        (np.array([0.0, -100.0]), True),
        (np.array([0.0, np.finfo(np.float32).min]), True),
        (np.array([0.0, 0.0]), False),
        (np.array([-100.0, -100.0]), False),
        (np.array([0.5, -100.0]), False),
        (np.array([0.0, -99.0]), False),
        (np.array(-100.0), False),
    ],
)
def test_a_mask_has_zeros_and_what_no_score_outweighs(value: np.ndarray, fixed: bool) -> None:
    found = constants_of(graph_of(value.shape), {"own.value": value.astype(np.float32)})
    assert found.fixed == ({"own.value"} if fixed else set())


@pytest.mark.parametrize("lead", [(2,), (1, 2)])
def test_a_table_of_distances_is_found_and_read(lead: tuple[int, ...]) -> None:
    spread = TABLE[:, distances(3)].reshape(*lead, 9, 9)
    assert window_of(spread) == 3
    np.testing.assert_array_equal(by_distance(spread, 3).reshape(2, 25), TABLE)
    assert constants_of(graph_of(spread.shape), {"own.value": spread}).windows == {"own.value": 3}


@pytest.mark.parametrize("value", [TABLE, np.ones((2, 9, 9)), DRAW.standard_normal((2, 9, 9)), DRAW.standard_normal((2, 8, 8))])
def test_other_values_have_no_window(value: np.ndarray) -> None:
    assert window_of(value.astype(np.float32)) is None


def test_what_is_known_to_be_no_weight_stays() -> None:
    value = np.array([1.0, 2.0], np.float32)
    assert constants_of(graph_of((2,)), {"own.value": value}, {"own.value", "conv.weight"}).fixed == {"own.value"}
