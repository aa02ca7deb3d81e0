"""The adapter of networks: what a cut takes, where channels are seen, which parts are deep. Of every kind of network."""

import pytest
import torch

from compression.models.adapters.network import cut
from compression.models.adapters.network.adapter import output_layer
from compression.models.adapters.network.structure import structure_of
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan, view_of
from compression.models.networks.cutting import cut_graph
from compression.models.networks.graph import Graph
from tests.support.network_graphs import NETWORKS, GraphBuilder, mobilenet_v2, resnet, vgg, vit
from tests.support.network_models import drawn_network


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_cut_takes_only_what_it_says(kind: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    structure = structure_of(model.config)
    assert structure.groups
    assert cut.unproven(model) == ()


def test_a_group_whose_cut_changes_more_is_found_and_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn_network(vgg())
    family, (wrong, *others) = adapter_of(model), structure_of(model.config).groups

    def others_instead(graph: Graph, kept, without=()):
        count = structure_of(model.config).groups[wrong].units
        return cut_graph(
            graph,
            {key: sorted(count - 1 - at for at in units) if key == wrong else units for key, units in kept.items()},
            without,
        )

    monkeypatch.setattr(cut, "cut_graph", others_instead)
    assert cut.unproven(model) == (wrong,)
    model.config.pinned = (wrong,)
    assert set(family.shape_of(model.config).widths or {}) == set(others)
    assert set(family.observed(model)) == set(others)
    assert family.network(model.config).parameters() == family.parameters_of(model).total
    assert wrong in family.notes(model.config)[0]


def test_what_stays_whole_follows_the_groups_of_a_cut_network() -> None:
    model = drawn_network(resnet((3, 2)))
    family = adapter_of(model)
    model.config.pinned = ("channels.0",)
    narrow = family.narrowed(model, PruningPlan({"channels.1": torch.arange(4)}))
    assert tuple(narrow.config.pinned) == ("channels.0",)
    # Without the first block its group is another one, and that one passes the trial.
    assert family.narrowed(model, PruningPlan(layers=(1, 2, 3))).config.pinned == ()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_plan_leaves_the_network_that_the_costs_foretell(kind: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    family = adapter_of(model)
    shape, facts = family.shape_of(model.config), family.network(model.config)
    assert facts.parameters() == family.parameters_of(model).total
    widths = {key: max(units // 2, 1) for key, units in shape.widths.items()}
    plan = PruningPlan({key: torch.arange(units) for key, units in widths.items()}, tuple(range(shape.layers - 1)) or None)
    gone = [block.name for block in facts.blocks[-1:]] if plan.layers is not None else []
    small = family.narrowed(model, plan)
    assert family.parameters_of(small).total == facts.parameters(widths, gone)
    assert family.parameters_of(model).total == facts.parameters()
    again = family.drawn(model, shape.model_copy(update={"widths": widths}))
    assert again(torch.randn(2, *model.config.network.shape)).logits.shape == (2, 5)


def test_a_block_that_goes_hands_its_input_on() -> None:
    model = drawn_network(resnet((3, 2)))
    structure = structure_of(model.config)
    family, block = adapter_of(model), structure.blocks[0]
    for name in block.nodes:
        if hasattr(model, name) and name.startswith("batch_norm"):
            last = model.get_submodule(name)
    with torch.no_grad():  # the branch adds nothing
        last.weight.zero_()
        last.bias.zero_()
    small = family.narrowed(model, PruningPlan(layers=tuple(range(1, len(structure.blocks)))))
    pixels = torch.randn(2, 3, 8, 8)
    assert torch.allclose(small(pixels).logits, model(pixels).logits, atol=1e-5)
    assert family.shape_of(small.config).layers == family.shape_of(model.config).layers - 1


@pytest.mark.parametrize("kind", NETWORKS)
def test_channels_are_seen_side_by_side(kind: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    family, structure = adapter_of(model), structure_of(model.config)
    seen: dict[tuple[str, int], torch.Tensor] = {}
    for key, taps in family.observed(model).items():
        assert taps
        for number, tap in enumerate(taps):
            tap[0].register_forward_hook(
                lambda _, __, value, at=(key, number), tap=tap: seen.__setitem__(at, view_of(tap)(value))
            )
    model(torch.randn(3, *structure.graph.shape))
    for (key, _), value in seen.items():
        assert value.ndim == 3
        assert len(value) == 3
        assert value.shape[2] % structure.groups[key].units == 0
    # The filters that make a unit come side by side too.
    for key, group in structure.groups.items():
        assert all(weight.shape[dim] % group.units == 0 for weight, dim in family.weights(model, key))
        assert family.weights(model, key)


def test_what_is_published_scores_a_convolution_by_its_own_filters() -> None:
    model = drawn_network(vgg())
    family = adapter_of(model)
    first = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))
    ((weight, dim),) = family.weights(model, "channels.0")
    assert dim == 0
    assert torch.equal(weight, model.get_parameter(f"{first}.weight"))


@pytest.mark.parametrize("kind", NETWORKS)
def test_depths_hold_every_parameter_once(kind: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    family = adapter_of(model)
    layers = family.layer_parameters(model)
    assert sorted(id(one) for layer in layers for one in layer) == sorted(map(id, model.parameters()))
    depth = family.depth_of(model)
    shape = family.shape_of(model.config)
    matrices = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    found = [depth(name) for name in matrices]
    assert found == sorted(found)
    assert found[0] == 1
    assert max(found) == len(layers) == (shape.layers + 1 if shape.layers else len(matrices))
    assert depth(f"values.{structure_of(model.config).graph.named(matrices[-1]).inputs[0]}") == found[-1]


def test_the_head_is_the_layer_that_makes_the_logits() -> None:
    net = GraphBuilder()
    graph = net.graph(net.reshape(net.mean(net.op("relu", net.conv("input", 7, 1)), keep=1), 1, 7))
    assert output_layer(graph).op == "conv"
    assert output_layer(resnet()).op == "linear"
    net = GraphBuilder()
    assert output_layer(net.graph(net.op("softplus", net.linear(net.mean("input"), 4)))) is None
    model = drawn_network(resnet())
    assert adapter_of(model).head(model).out.out_features == 5


def test_stages_hand_on_the_last_sum_of_each_size() -> None:
    model = drawn_network(resnet((2, 2)))
    maps = model(torch.randn(2, 3, 8, 8), output_hidden_states=True).hidden_states
    assert [tuple(one.shape) for one in maps] == [(2, 8, 8, 8), (2, 16, 4, 4)]
    assert len(adapter_of(model).feature_maps(model)) == 2
    tokens = drawn_network(vit())(torch.randn(2, 3, 8, 8), output_hidden_states=True).hidden_states
    assert [one.shape[:2] for one in tokens] == [(2, 12)]
    assert len(drawn_network(vgg())(torch.randn(2, 3, 8, 8), output_hidden_states=True).hidden_states) > 1
    assert len(drawn_network(mobilenet_v2())(torch.randn(2, 3, 8, 8), output_hidden_states=True).hidden_states) == 1


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_a_cut_network_has_the_groups_and_the_order_of_the_whole_one(kind: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    family, structure = adapter_of(model), structure_of(model.config)
    tensors = model.state_dict()
    for group in structure.groups.values():  # every filter is the number of its unit
        for member in group.members:
            filters = tensors[member.tensor]
            if member.dim == 0 and filters.ndim > 1:
                for place, number in zip(member.places, member.numbers, strict=True):
                    filters[place] = float(number)
    draw = torch.Generator().manual_seed(0)
    kept = {
        key: torch.randperm(group.units, generator=draw)[: max(group.units // 2, 2)].sort().values
        for key, group in structure.groups.items()
    }
    small = family.narrowed(model, PruningPlan(kept))
    assert family.shape_of(small.config).widths == {key: len(units) for key, units in kept.items()}
    for key, units in kept.items():
        for weight, _ in family.weights(small, key):
            assert torch.equal(weight.reshape(len(units), -1).amax(dim=1), units.float())
