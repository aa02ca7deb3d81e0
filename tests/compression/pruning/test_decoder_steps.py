"""Cuts in steps of configs whose hidden size hangs on their heads: each step can be said, and none gives back what one took."""

import json

import pytest

from compression.models.architectures.decoder_configs import check_decoder, decoder_shape
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at, planned, steps_to
from compression.planning.preflight import preflight
from compression.planning.warnings import _too_deep
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.prune import AxisRatios, Prune, Recovery
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.measurements import Shape
from tests.compression.planning.test_planning import DATA
from tests.support.facts import SMOLLM2, decoder_facts


def of(hidden: int, heads: int, groups: int) -> Shape:
    widths = {"hidden": hidden, "heads": heads, "groups": groups, "head_size": hidden // heads, "ffn": 4 * hidden}
    return Shape(layers=4, vocabulary=1000, **widths)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "widths", [(576, 9, 3), (960, 15, 5), (2048, 32, 32), (4096, 32, 8), (3072, 24, 8), (896, 14, 2), (2048, 16, 16)]
)
def test_no_step_is_wider_than_the_one_before_it(kind: str, widths: tuple[int, int, int]) -> None:
    start, family = of(*widths), ARCHITECTURE_SPECS[kind]
    asked = [(hidden, heads, steps) for hidden in (0.02, 0.1, 0.3, 0.6) for heads in (0.1, 0.3, 0.6) for steps in (2, 3, 4)]
    for hidden, heads, steps in asked:
        ratios = AxisRatios(hidden=hidden, heads=heads, ffn=0.5)
        prune = Prune(ratio=ratios, axes=("hidden", "heads", "ffn"), steps=steps, recovery=Recovery(epochs=steps))
        ratios, end = planned(family, start, prune)  # by itself a cut that the config can say
        shapes = steps_to(family, start, prune, ratios, end)
        assert (len(shapes), shapes[-1]) == (steps, end)
        for before, after in zip([start, *shapes], shapes, strict=False):
            check_decoder(kind, after)
            assert all(getattr(after, axis) <= getattr(before, axis) for axis in ("hidden", "heads", "groups", "ffn"))
        assert shapes[0].ffn < start.ffn


def test_encoders_go_the_way_that_they_went() -> None:
    prune = Prune(ratio=0.5, axes=("hidden", "heads", "ffn"), steps=2, multiple=64, recovery=Recovery(epochs=2))
    start = Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=1000)
    shapes = steps_to(ARCHITECTURE_SPECS["bert"], start, prune, *planned(ARCHITECTURE_SPECS["bert"], start, prune))
    assert [(one.hidden, one.heads, one.ffn) for one in shapes] == [(256, 8, 1088), (192, 6, 768)]


def test_no_more_layers_are_without_experts_than_are_left() -> None:
    experts = Experts(count=8, ffn=32, shared=32, chosen=2, dense_layers=3)
    latent = Latent(query=None, kv=16, rope=8, value=16)
    start = of(64, 4, 4).model_copy(update={"layers": 6, "experts": experts, "latent": latent})
    found = [decoder_shape("deepseek_v3", start, {"layers": ratio}, 8) for ratio in (0.3, 0.5, 0.7, 0.8)]
    assert [(one.layers, one.experts.dense_layers) for one in found if one.experts] == [(4, 3), (3, 3), (2, 2), (1, 1)]
    counts = [parameters_at(ARCHITECTURE_SPECS["deepseek_v3"], one, outputs=0).total for one in found]
    tables = 1000 * 64
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > tables


@pytest.mark.parametrize(("ratio", "steps", "warns"), [(0.7, 1, True), (0.7, 2, True), (0.7, 3, False), (0.3, 1, False)])
def test_a_deep_cut_at_once_is_warned_of_with_the_keys_that_divide_it(ratio: float, steps: int, warns: bool) -> None:
    model, recovery = decoder_facts("llama", SMOLLM2), Recovery(epochs=steps, rate=1e-4)
    recipe = Recipe(prune=Prune(ratio=AxisRatios(ffn=ratio, layers=ratio), steps=steps, recovery=recovery))
    plan = preflight(model, DATA, recipe, Evaluate())
    said = [warning for warning in plan.warnings if "of the parameters go in one cut" in warning]
    assert len(said) == warns
    if warns:
        assert plan.parameters.total < 0.6 * plan.baseline_parameters.total
        keys = json.loads(said[0].partition("Put this into prune: ")[2])
        divided = Recipe.model_validate({"prune": {**recipe.prune.model_dump(), **keys}})
        assert (divided.prune.steps, divided.prune.recovery) == (3, Recovery(by="teacher", epochs=3, rate=1e-4))
        assert not [one for one in preflight(model, DATA, divided, Evaluate()).warnings if "in one cut" in one]


def test_a_deep_cut_of_a_search_is_divided_without_it_and_that_of_a_search_for_a_size_is_its_own() -> None:
    model, prune = decoder_facts("llama", SMOLLM2), Prune(ratio=AxisRatios(ffn=0.7, layers=0.7), search="solver")
    (said,) = [one for one in preflight(model, DATA, Recipe(prune=prune), Evaluate()).warnings if "in one cut" in one]
    keys = json.loads(said.partition("Put this into prune: ")[2])
    divided = Recipe.model_validate({"prune": {**prune.model_dump(), **keys}})
    assert (divided.prune.search, divided.prune.steps) == (None, 3)
    plan = preflight(model, DATA, Recipe(prune=prune, auto=Auto()), Evaluate())
    assert not [one for one in plan.warnings if "in one cut" in one]


@pytest.mark.parametrize(("points", "keys"), [(2, {"points": 3}), (3, None)])
def test_several_sizes_share_a_deep_cut_and_more_of_them_divide_it(points: int, keys: dict[str, int] | None) -> None:
    model = decoder_facts("llama", SMOLLM2)
    prune = Prune(ratio=AxisRatios(ffn=0.7, layers=0.7), search="solver", points=points)
    said = [one for one in preflight(model, DATA, Recipe(prune=prune), Evaluate()).warnings if "in one cut" in one]
    assert [json.loads(one.partition("Put this into prune: ")[2]) for one in said] == ([keys] if keys else [])
    if keys:
        more = Recipe.model_validate({"prune": {**prune.model_dump(), **keys}})
        assert not [one for one in preflight(model, DATA, more, Evaluate()).warnings if "in one cut" in one]


@pytest.mark.parametrize(
    "own",
    [
        {"search": "solver", "points": 6},
        {"search": "tpe", "search_budget": {"evaluations": 10}},
        {"search": "solver"},
        {"search": "solver", "finalists": {"cuts": 2}},
        {"search": "solver", "target_params": 0.6, "target_flops": 0.6, "target_bytes": 0.7},
    ],
)
def test_proposed_steps_are_accepted_beside_what_a_search_had(own: dict[str, object]) -> None:
    given = {"ratio": {"ffn": 0.7}, **own}
    keys = [json.loads(one.partition("Put this into prune: ")[2]) for one in _too_deep(Prune.model_validate(given), 0.04)]
    (proposed,) = keys
    divided = Prune.model_validate({**given, **proposed})
    assert (divided.search, divided.points, divided.steps) == (None, 1, 7)
