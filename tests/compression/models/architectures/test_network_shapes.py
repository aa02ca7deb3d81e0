"""A network's cut has the widths of a ratio or a target, its costs are those of the narrower graph, and no other is planned."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import (
    axes_of,
    multiply_adds,
    network_parameters,
    own_axes,
    step_of,
    whole_shape,
)
from compression.models.architectures.pruning_groups import axis_and_layer, units_at, width_of
from compression.models.architectures.shapes import candidates, deepest_shape, planned, steps_to
from compression.models.networks.costs import network_facts
from compression.models.networks.cutting import cut_graph
from compression.models.networks.graph import Graph
from compression.schema.errors import CompressionError, UnsupportedShape
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.report.measurements import Shape
from compression.schema.report.network import GroupFacts, NetworkFacts
from tests.support.network_graphs import NETWORKS, resnet, vit

RESNET, VIT = resnet((3, 2), 64, size=16), vit(width=32, heads=8)


def shape_and_ratios(graph: Graph, **settings: Any) -> tuple[NetworkFacts, Shape, dict[str, float]]:
    network = network_facts(graph)
    whole = whole_shape(network)
    prune = own_axes(whole, Prune.model_validate(settings), NETWORK.usual_axes)
    counts = {"target_params": partial(network_parameters, network), "target_flops": partial(multiply_adds, network)}
    ratios, shape = planned(NETWORK, whole, prune, counts=counts, network=network)
    return network, shape, dict(ratios)


def left_of(graph: Graph, shape: Shape) -> NetworkFacts:
    """Return the facts of the graph that is left with the first units of each group."""
    return network_facts(cut_graph(graph, {key: range(units) for key, units in (shape.widths or {}).items()}).graph)


@pytest.mark.parametrize("graph", [make() for make in NETWORKS.values()], ids=list(NETWORKS))
def test_a_planned_shape_is_that_of_the_narrower_graph_and_costs_as_much(graph: Graph) -> None:
    for axes in (("channels",), ("hidden",), ("heads", "ffn"), ("hidden", "channels", "ffn")):
        whole = whole_shape(network_facts(graph))
        if not set(axes) <= axes_of(whole):
            continue
        network, shape, _ = shape_and_ratios(graph, ratio=0.4, axes=axes)
        narrower = left_of(graph, shape)
        assert shape.widths != whole.widths
        assert whole_shape(narrower) == shape
        assert network_parameters(network, shape) == narrower.parameters() < network.parameters()
        assert multiply_adds(network, shape) == narrower.multiply_adds() < network.multiply_adds()


def test_each_group_loses_the_ratio_in_multiples_that_keep_near_it() -> None:
    _, shape, _ = shape_and_ratios(RESNET, ratio=0.3)
    assert {key: units for key, units in shape.widths.items() if key.startswith("channels")} == {
        "channels.0": 48,
        "channels.1": 48,
        "channels.2": 48,
        "channels.3": 88,
        "channels.4": 88,
    }
    assert {shape.widths["hidden.0"], shape.widths["hidden.1"]} == {64, 128}  # not named
    assert units_at(shape, "channels", 3) == 88
    assert width_of(shape, "channels") == 3 * 48 + 2 * 88
    for units in (2, 3, 7, 16, 24, 31, 64, 100, 512):
        group = GroupFacts(key="channels.0", axis="channels", units=units)
        step = step_of(group, 64)
        assert step == 1 or (step <= 8 and units >= 8 * step)
        assert step_of(group, 4) == min(step, 4)
    assert step_of(GroupFacts(key="heads.0", axis="heads", units=64, unit_size=32), 64) == 1


def test_axes_that_are_not_named_are_those_that_the_network_has() -> None:
    assert set(shape_and_ratios(RESNET, ratio=0.3)[2]) >= {"channels"}
    for graph, usual in ((RESNET, ("channels",)), (VIT, ("heads", "ffn"))):
        whole = whole_shape(network_facts(graph))
        assert own_axes(whole, Prune(), NETWORK.usual_axes).axes == usual
        # What a job stores names them, and means the same.
        stored = Prune.model_validate(own_axes(whole, Prune(), NETWORK.usual_axes).model_dump(mode="json"))
        assert own_axes(whole, stored, NETWORK.usual_axes).axes == usual
    # A recipe that was read whole and sent back names the default axes, of which a network of convolutions has one.
    read = Prune.model_validate(Prune().model_dump(mode="json"))
    assert own_axes(whole_shape(network_facts(RESNET)), read, NETWORK.usual_axes).axes == ("channels",)
    assert own_axes(whole, read, NETWORK.usual_axes).axes == ("hidden", "heads", "ffn")
    heads = own_axes(whole, Prune.model_validate({"ratio": {"heads": 0.25}}), NETWORK.usual_axes)
    assert heads.axes == ("heads",)  # hidden does not follow
    assert shape_and_ratios(VIT, ratio={"heads": 0.25})[1].heads == 6
    with pytest.raises(UnsupportedShape, match="nothing to cut"):
        own_axes(whole.model_copy(update={"widths": {"hidden.0": 32}}), Prune(), NETWORK.usual_axes)


@pytest.mark.parametrize("key", ["target_params", "target_flops"])
def test_a_target_is_reached_by_the_mildest_cut(key: str) -> None:
    network = network_facts(RESNET)
    cost = network_parameters if key == "target_params" else multiply_adds
    whole = whole_shape(network)
    for target in (0.4, 0.6 * cost(network, whole)):
        axes = ("channels", "hidden")
        _, shape, ratios = shape_and_ratios(RESNET, axes=axes, **{key: target})
        most = 0.6 * cost(network, whole)
        assert 0.9 * most < cost(network, shape) <= most
        milder = {axis: ratio - 0.001 for axis, ratio in ratios.items() if ratio}
        assert cost(network, shape_and_ratios(RESNET, ratio=milder, axes=axes)[1]) > most
        assert ratios["channels"] == ratios["hidden"]
    with pytest.raises(UnsupportedShape, match=f"{key} asks for at most 1,000 .*leaves") as refused:
        shape_and_ratios(RESNET, **{key: 1000})
    assert refused.value.param == f"recipe.prune.{key}"
    assert shape_and_ratios(RESNET, **{key: 10**12})[1] == whole
    uneven = shape_and_ratios(RESNET, ratio={"channels": 0.6, "hidden": 0.3}, **{key: 0.4})[2]
    assert uneven["channels"] == pytest.approx(2 * uneven["hidden"])


def test_what_rounding_of_widths_takes_beyond_a_target_is_given_back() -> None:
    """All groups of 16 channels lose a step at one ratio: from −37 to −50 % of the multiply-adds."""
    graph = resnet((3, 3), 16, size=16)
    network, shape, ratios = shape_and_ratios(graph, axes=("channels",), target_flops=0.4)
    whole, most = whole_shape(network), 0.6 * multiply_adds(network, whole_shape(network))
    at_ratio = shape_and_ratios(graph, ratio=ratios["channels"], axes=("channels",))[1]
    assert multiply_adds(network, at_ratio) < 0.9 * most
    assert 0.95 * most < multiply_adds(network, shape) <= most
    assert len({units / network.widths[key] for key, units in shape.widths.items() if key.startswith("channels")}) == 2
    for key, units in shape.widths.items():
        step = {**shape.widths, key: min(units + units // 4, network.widths[key])}
        assert units >= at_ratio.widths[key]
        assert not key.startswith("channels") or network.multiply_adds(step) > most
    steps = Prune(axes=("channels",), target_flops=0.4, steps=4, recovery=Recovery())
    for here, to in pairwise([whole, *steps_to(NETWORK, whole, steps, ratios, shape, network)]):
        assert all(to.widths[key] <= here.widths[key] for key in to.widths)


def test_blocks_count_as_if_those_went_that_save_least() -> None:
    network, shape, _ = shape_and_ratios(RESNET, ratio={"layers": 0.5})
    blocks = [block.name for block in network.blocks]
    assert shape.layers == len(blocks) - round(0.5 * len(blocks))
    for cost, of in ((network_parameters, network.parameters), (multiply_adds, network.multiply_adds)):
        gone = len(blocks) - shape.layers
        each = sorted(of() - of(None, [name]) for name in blocks)
        assert cost(network, shape) == of() - sum(each[:gone])
    with pytest.raises(UnsupportedShape, match="leaves none"):
        shape_and_ratios(RESNET, ratio={"layers": 0.9})


def test_stock_widths_keep_the_proportions_of_their_lists() -> None:
    graph = resnet((2, 2), 64, bottleneck=True)
    network = network_facts(graph)
    hidden = {key: units for key, units in network.widths.items() if key.startswith("hidden")}
    tied = tuple(
        (wide, *(key for key, units in network.widths.items() if axis_and_layer(key)[0] == "channels" and 4 * units == most))
        for wide, most in hidden.items()
    )
    network = network.model_copy(update={"tied": tied})
    whole = whole_shape(network)
    asked = Prune(ratio=0.3, axes=("hidden", "channels"), stock=True)
    for multiple in (1, 64):
        prune = asked.model_copy(update={"multiple": multiple})
        shape = planned(NETWORK, whole, prune, network=network)[1]
        for wide, *narrow in tied:
            assert {4 * shape.widths[key] for key in narrow} == {shape.widths[wide]}
            assert 0.2 < 1 - shape.widths[wide] / whole.widths[wide] < 0.4
    with pytest.raises(UnsupportedShape, match=r"fixed proportion to hidden\.0") as refused:
        planned(NETWORK, whole, asked.model_copy(update={"axes": ("channels",)}), network=network)
    assert refused.value.param == "recipe.prune.stock"


def test_steps_fall_to_the_end_and_deepest_is_the_last_candidate() -> None:
    network = network_facts(RESNET)
    whole = whole_shape(network)
    prune = Prune.model_validate({"ratio": 0.5, "axes": ["channels", "hidden"], "steps": 3, "recovery": {"epochs": 3}})
    ratios, end = planned(NETWORK, whole, prune, network=network)
    costs = [network.parameters(shape.widths) for shape in steps_to(NETWORK, whole, prune, ratios, end, network)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == network.parameters(end.widths)
    found = [shape for _, shape in candidates(NETWORK, whole, prune, network)]
    assert found[0] == whole
    assert len(set(found)) == len(found) > 10
    assert deepest_shape(NETWORK, whole, prune, network) == found[-1]
    assert min(found[-1].widths.values()) >= 2


@pytest.mark.parametrize(
    ("settings", "param", "said"),
    [
        ({"axes": ["experts"]}, "axes", "no axis"),
        ({"axes": ["heads"]}, "axes", "nothing to cut on the axis heads"),
        ({"reconstruct": True}, "reconstruct", "least squares"),
        ({"stock": True}, "stock", "no config"),
        ({"ratio": {"layers": 0.3}, "steps": 2, "recovery": {"epochs": 2}}, "steps", "other groups"),
    ],
)
def test_what_a_network_cannot_have_is_refused_with_its_key(settings: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(CompressionError, match=said) as refused:
        shape_and_ratios(RESNET, **settings)
    assert refused.value.param == f"recipe.prune.{param}"


def test_batch_normalization_scores_and_refreshes_only_where_it_is() -> None:
    shape_and_ratios(RESNET, importance="bn_scale")
    for settings, key in (({"importance": "bn_scale"}, "importance"), ({"refresh_statistics": False}, "refresh_statistics")):
        with pytest.raises(CompressionError, match="batch normalization") as refused:
            shape_and_ratios(VIT, **settings)
        assert refused.value.param == f"recipe.prune.{key}"
