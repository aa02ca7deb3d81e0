"""What a recipe of several sizes is refused with, by the key's name, and the rows that it leads to."""

from typing import Any

import pytest
from pydantic import ValidationError

from compression.planning.network_rules import check_network
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.points import hindrance
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Recipe
from compression.schema.stages import points_of, wanted

POINTS: dict[str, Any] = {"prune": {"search": "solver", "points": 3, "target_params": 0.4}}


def test_each_size_has_a_row_and_a_recipe_of_one_has_those_of_before() -> None:
    sized = [*wanted({}), "point2", "point3"]
    assert [*wanted(POINTS)] == [*wanted(dict(Recipe.model_validate(POINTS)))] == sized
    assert wanted({"prune": {"points": 1}}) == wanted({}) == ("baseline", "quantized", "pruned", "distilled")
    assert (points_of({"prune": None}), points_of({}), points_of({"prune": {"points": "many"}})) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        ({"prune": {"search": None}}, "prune.points", "set search to solver"),
        ({"prune": {"search": "tpe"}}, "prune.points", "set search to solver"),
        ({"prune": {"points": 7}}, "prune.points", "less than or equal to 6"),
        ({"prune": {"points": 0}}, "prune.points", "greater than or equal to 1"),
        ({"distill": None}, "prune.points", "distill is null"),
        ({"auto": {}, "prune": {"target_params": None}}, "prune.points", "auto looks for one size"),
        ({"prune": {"recovery": {"epochs": 1}}}, "prune.recovery", "set it to null"),
        ({"prune": {"reconstruct": True}}, "prune.reconstruct", "set it to false"),
        ({"train": {"max_steps": 100}}, "train.max_steps", "before the last"),
        ({"train": {"max_minutes": 5}}, "train.max_minutes", "before the last"),
    ],
)
def test_what_several_sizes_cannot_be_made_by_is_refused_with_its_key(change: Any, key: str, why: str) -> None:
    recipe = {**POINTS, **change, "prune": {**POINTS["prune"], **change.get("prune", {})}}
    with pytest.raises(ValidationError, match=why) as caught:
        Recipe.model_validate(recipe)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == key


def test_a_package_s_stage_which_changes_one_model_is_refused_by_name() -> None:
    found = hindrance(Prune(search="solver", points=2), Distill(), None, {}, ["rounding"])
    assert found == ("prune.points", "rounding changes one model, and points makes several: leave out one of them")
    assert hindrance(Prune(search="solver"), Distill(), None, {}, ["rounding"]) is None


def test_blocks_of_a_network_go_in_one_cut_alone() -> None:
    recipe = Recipe.model_validate({"prune": {**POINTS["prune"], "axes": ["channels", "layers"]}})
    with pytest.raises(InvalidSpec, match="lost residual blocks") as caught:
        check_network(recipe)
    assert caught.value.param == "recipe.prune.points"
