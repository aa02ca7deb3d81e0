"""Spaces of models: their sums are what cuts really cost, and the solver's shape is the best of all shapes."""

from functools import cache, partial
from itertools import product
from typing import Any

import pytest

from compression.models.architectures.decoder_configs import check_decoder
from compression.models.architectures.families import ARCHITECTURE_SPECS, NETWORK
from compression.models.architectures.network_shapes import multiply_adds, whole_shape
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.architectures.shapes import parameters_at
from compression.models.networks.costs import network_facts
from compression.planning.device_times import ShapeTimes
from compression.planning.search import costs
from compression.planning.search.problem import Problem
from compression.planning.search.reach import blank_tables
from compression.planning.search.space import MOST_TOGETHER, UniformSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import solve_within
from compression.schema.error_tables import ErrorTables, GroupErrors, LayerErrors, WidthError, widths_of
from compression.schema.errors import TargetOutOfReach, UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.measurements import Shape
from tests.support.device_tables import made_table
from tests.support.network_graphs import resnet

BERT = ARCHITECTURE_SPECS["bert"]
SHAPE = Shape(layers=3, hidden=64, heads=4, ffn=128, vocabulary=100)
FRAGILE = {"0": 3.0, "1": 0.2, "2": 1.0}
"""By layer, how much its errors are."""


def group(key: str, units: int, scale: float) -> GroupErrors:
    points = tuple(WidthError(units=each, error=scale * (1 - each / units) ** 2) for each in widths_of(units))
    return GroupErrors(key=key, readers=1, points=points)


def tables(groups: list[GroupErrors], layers: list[LayerErrors]) -> ErrorTables:
    return ErrorTables(digest="0" * 64, rows=8, seconds=1.0, groups=tuple(groups), layers=tuple(layers))


def of_encoder() -> ErrorTables:
    groups = [group("hidden", 64, 5.0)]
    layers = []
    for name, scale in FRAGILE.items():
        own = {"heads": 4, "ffn": 128}
        groups += [group(f"{axis}.{name}", units, scale) for axis, units in own.items()]
        layers.append(LayerErrors(name=name, change=scale / 10, groups=tuple(f"{axis}.{name}" for axis in own)))
    return tables(groups, layers)


def count(shape: Shape) -> int:
    return parameters_at(BERT, shape, rows=66, outputs=2).total


def prune(**settings: Any) -> Prune:
    return Prune.model_validate({"search": "solver", "multiple": 8, "ratio": 0.3, **settings})


def problem_of(space: Any, found: list[Any]) -> Problem:
    return Problem(space.choices, space.error, (*space.structure, *(space.limit(cost) for cost in found)))


@pytest.mark.parametrize("axes", [("hidden", "heads", "ffn"), ("ffn",), ("hidden", "heads", "ffn", "layers"), ("layers",)])
def test_sums_of_an_encoder_are_its_parameters(axes: tuple[str, ...]) -> None:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=axes))
    cost = costs.parameters(0.7 * count(SHAPE), count)
    problem = problem_of(space, [cost])
    names = [choice.name for choice in space.choices]
    for each in list(product(*(range(choice.options) for choice in space.choices)))[::7]:
        picks = dict(zip(names, each, strict=True))
        if space.layers(picks):
            assert problem.costs_of(picks)["parameters"] == pytest.approx(count(space.shape(picks)), abs=1e-3)


ROUTED = {"ffn": 16, "shared": 16, "chosen": 2, "dense_layers": 1}
LATENT = Latent(query=32, kv=32, rope=4, value=8)
DECODER = {"layers": 2, "hidden": 48, "heads": 6, "ffn": 32, "vocabulary": 20, "groups": 3, "head_size": 8}
OF_LATENT = {**DECODER, "hidden": 32, "heads": 4, "groups": 4, "head_size": 12, "latent": LATENT}
RANKS = ("hidden", "heads", "ffn", "query_rank", "kv_rank")
EVERY: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "bert": (Shape(layers=2, hidden=32, heads=4, ffn=32, vocabulary=20), ("hidden", "heads", "ffn", "layers")),
    "llama": (Shape(**DECODER), ("hidden", "heads", "ffn", "layers")),
    "qwen2": (Shape(**DECODER), ("hidden", "heads", "ffn", "layers")),
    "qwen3": (Shape(**DECODER), ("heads", "ffn")),
    "gpt2": (Shape(**{**DECODER, "groups": None}), ("hidden", "heads", "ffn", "layers")),
    "deepseek_v2": (Shape(**OF_LATENT, experts=Experts(count=4, **ROUTED)), RANKS),
    "deepseek_v3": (Shape(**OF_LATENT, experts=Experts(count=4, **ROUTED)), RANKS),
}


@pytest.mark.parametrize("kind", EVERY)
def test_sums_are_the_parameters_of_every_combination_and_each_can_be_saved(kind: str) -> None:
    (shape, axes), family = EVERY[kind], ARCHITECTURE_SPECS[kind]
    space = space_of(blank_tables(shape, prune(axes=axes), None), family, shape, prune(axes=axes))

    @cache
    def counted(cut: Shape) -> int:
        if family.decodes:
            check_decoder(kind, cut)
        return parameters_at(family, cut, outputs=2).total

    problem = problem_of(space, [costs.parameters(1, lambda cut: parameters_at(family, cut, outputs=2).total)])
    names, sizes = [choice.name for choice in space.choices], set()
    for each in product(*(range(choice.options) for choice in space.choices)):
        picks = dict(zip(names, each, strict=True))
        if space.layers(picks):
            size = counted(space.shape(picks))
            assert problem.costs_of(picks)["parameters"] == pytest.approx(size, abs=1e-3)
            sizes.add(size)
    assert len(sizes) >= 8
    deepest = [counted(space.shape(picks)) for picks in space.deepest()]
    assert min(deepest) == min(sizes)


def test_a_decoder_whose_hidden_must_divide_by_its_heads_keeps_them_apart() -> None:
    shape, axes = EVERY["llama"]
    space = space_of(blank_tables(shape, prune(axes=axes), None), ARCHITECTURE_SPECS["llama"], shape, prune(axes=axes))
    (both,) = (choice for choice in space.choices if choice.name == "hidden and heads")
    whole = dict.fromkeys((choice.name for choice in space.choices), 0)
    cut = [space.shape({**whole, both.name: option}) for option in range(both.options)]
    assert {one.heads for one in cut} == {2, 4, 6}
    assert all(len({one.hidden for one in cut if one.heads == heads}) > 4 for heads in (2, 4, 6))
    wide = Shape(**{**DECODER, "hidden": 4096, "heads": 64, "groups": 64, "head_size": 64})
    many = space_of(blank_tables(wide, prune(axes=axes), None), ARCHITECTURE_SPECS["llama"], wide, prune(axes=axes))
    assert 32 < many.choices[0].options <= MOST_TOGETHER


@pytest.mark.parametrize("axes", [("hidden", "heads", "ffn"), ("ffn", "layers")])
def test_an_encoder_gets_the_best_of_its_shapes(axes: tuple[str, ...]) -> None:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=axes))
    cost = costs.parameters(0.6 * count(SHAPE), count)
    found, problem = solve_within(space, [cost]), problem_of(space, [cost])
    names = [choice.name for choice in space.choices]
    every = [dict(zip(names, each, strict=True)) for each in product(*(range(one.options) for one in space.choices))]
    best = min(problem.error_of(picks) for picks in every if problem.allows(picks))
    assert found.error == pytest.approx(best, rel=1e-6)
    assert found.costs["parameters"] == count(found.shape) <= cost.most
    if "layers" in axes:
        assert found.shape.layers == len(found.layers)


def test_the_layer_that_goes_is_the_one_that_changes_least() -> None:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=("layers",)))
    found = solve_within(space, [costs.parameters(count(SHAPE.model_copy(update={"layers": 2})), count)])
    assert found.layers == (0, 2)
    weighed = space_of(of_encoder(), BERT, SHAPE, prune(axes=("layers",)), weights={"1": 100.0})
    assert solve_within(weighed, [costs.parameters(count(SHAPE.model_copy(update={"layers": 2})), count)]).layers == (0, 1)


def network() -> Any:
    return network_facts(resnet((2, 2), 16))


def of_network(facts: Any) -> ErrorTables:
    scales = {one.key: 1.0 + 2 * number for number, one in enumerate(facts.groups)}
    layers = [LayerErrors(name=block.name, change=0.1 + at / 9) for at, block in enumerate(facts.blocks)]
    inner = [
        tuple(
            one.key
            for one in facts.groups
            if all(
                layer.name in block.layers
                for layer in facts.layers
                if one.key in layer.outputs.units or one.key in layer.inputs.units
            )
        )
        for block in facts.blocks
    ]
    layers = [layer.model_copy(update={"groups": own}) for layer, own in zip(layers, inner, strict=True)]
    return tables([group(one.key, one.units, scales[one.key]) for one in facts.groups], layers)


@pytest.mark.parametrize("axes", [("channels", "hidden"), ("channels", "hidden", "layers")])
def test_a_network_gets_free_widths_within_two_limits(axes: tuple[str, ...]) -> None:
    facts = network()
    whole = whole_shape(facts)
    space = space_of(of_network(facts), NETWORK, whole, prune(axes=axes), facts)
    limits = [
        costs.parameters(0.5 * facts.parameters(), lambda shape: facts.parameters(shape.widths)),
        costs.multiply_adds(0.6 * facts.multiply_adds(), partial(multiply_adds, facts)),
    ]
    problem = problem_of(space, limits)
    found = solve_within(space, limits)
    gone = [block.name for at, block in enumerate(facts.blocks) if at not in found.layers]
    assert found.costs["parameters"] == facts.parameters(found.shape.widths, gone) <= limits[0].most
    assert found.costs["multiply-adds"] == facts.multiply_adds(found.shape.widths, gone) <= limits[1].most
    sums = problem.costs_of(found.picks)
    assert found.costs == pytest.approx({name: sums[name] for name in found.costs}, rel=1e-9)
    channels = [width / facts.widths[key] for key, width in found.shape.widths.items()]
    assert len(set(channels)) > 1, "all groups lose alike, though some are more fragile"
    # No single other width of any group is better.
    for choice in space.choices:
        for option in range(choice.options):
            other = {**found.picks, choice.name: option}
            assert not problem.allows(other) or problem.error_of(other) >= found.error - 1e-9


def test_milliseconds_and_bytes_are_limits_as_the_device_table_and_the_forecast_count_them() -> None:
    times = ShapeTimes(made_table(), BERT, None, tokens=32)
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=("hidden", "heads", "ffn", "layers")))
    whole = times.milliseconds(SHAPE, "dynamic-int8")
    assert whole is not None
    latency = costs.milliseconds(0.7 * whole, times, "dynamic-int8")
    assert latency is not None
    stored = costs.stored_bytes(0.8 * count(SHAPE), lambda shape: parameters_at(BERT, shape, rows=66, outputs=2), Quantize())
    found = solve_within(space, [latency, stored])
    assert found.costs["milliseconds"] == times.milliseconds(found.shape, "dynamic-int8") <= latency.most
    assert found.costs["bytes"] <= stored.most
    sums = problem_of(space, [latency, stored]).costs_of(found.picks)
    assert {name: sums[name] for name in found.costs} == pytest.approx(dict(found.costs), rel=1e-4)
    assert costs.milliseconds(1.0, times, "weight-only-int4") is None


@pytest.mark.parametrize("scheme", [{}, {"scheme": "weight-only-int4"}])
def test_bytes_of_quantized_artifacts_are_the_sums_of_their_parts(scheme: dict[str, Any]) -> None:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=("ffn", "layers")))
    stored = costs.stored_bytes(1, lambda shape: parameters_at(BERT, shape, rows=66, outputs=2), Quantize(**scheme))
    problem = problem_of(space, [stored])
    for ffn, gone in product(range(problem.options["ffn"]), (0, 1)):
        picks = {**dict.fromkeys(problem.options, 0), "ffn": ffn, space.layer_choices[0].name: gone}
        assert problem.costs_of(picks)["bytes"] == pytest.approx(space.cost_of(stored, picks), rel=1e-12)


def test_milliseconds_of_a_network_are_those_of_its_layers_that_stay() -> None:
    facts = network()
    whole = whole_shape(facts)
    times = ShapeTimes(made_table(), NETWORK, facts, tokens=1)
    latency = costs.milliseconds(0.6 * (times.milliseconds(whole, "static-int8") or 0.0), times, "static-int8")
    assert latency is not None
    space = space_of(of_network(facts), NETWORK, whole, prune(axes=("channels", "hidden")), facts)
    found = solve_within(space, [latency])
    assert found.costs["milliseconds"] == pytest.approx(times.milliseconds(found.shape, "static-int8"))
    assert found.costs["milliseconds"] <= latency.most


def test_what_no_table_knows_cannot_be_chosen() -> None:
    with pytest.raises(UnsupportedShape, match="axis heads"):
        space_of(tables([group("ffn.0", 8, 1.0)], []), BERT, SHAPE, prune(axes=("ffn", "heads", "hidden")))


def test_a_target_below_all_shapes_names_the_nearest() -> None:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=("ffn",)))
    with pytest.raises(TargetOutOfReach) as caught:
        solve_within(space, [costs.parameters(10, count)])
    nearest: Any = caught.value.nearest
    assert nearest.shape.ffn == 8
    assert nearest.costs["parameters"] == count(nearest.shape)


def test_errors_between_known_widths_are_on_a_line() -> None:
    known = group("ffn.0", 16, 1.0)
    assert known.at(16) == 0.0
    assert known.at(0) == 1.0
    assert known.at(13) == pytest.approx((known.at(14) + known.at(12)) / 2)
    assert units_at(SHAPE, *axis_and_layer("ffn.0")) == 128
    with pytest.raises(ValueError, match="17 cannot stay"):
        known.at(17)


def test_feed_forward_units_go_in_fine_steps_as_far_as_before() -> None:
    wide = SHAPE.model_copy(update={"ffn": 1024})
    known = tables([group(f"ffn.{number}", 1024, 1.0) for number in range(wide.layers)], [])
    space = space_of(known, BERT, wide, prune(axes=("ffn",), multiple=1))
    assert isinstance(space, UniformSpace)
    (widths,) = [one.shapes for one in space.dimensions]
    assert [shape.ffn for shape in widths] == list(range(1024, 63, -16))
