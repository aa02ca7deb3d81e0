"""Settings of a training that has no epochs: refused in new recipes, left out of changed presets and of stored recipes."""

from typing import Any

import pytest

from app.jobs.preflight import resolve_recipe
from app.jobs.remedies import apply_remedies
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.presets import PRESETS, merged, preset
from compression.schema.recipe.recipe import Recipe
from compression.schema.recipe.trainings import check_effective
from compression.schema.report.measurements import Remedy
from compression.schema.tasks import TASKS

NO_QAT: dict[str, Any] = {"full": 0, "ramp": 0, "quantized": 0}


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ({"prepare": {"epochs": 0, "rate": 1e-4}}, "prepare.rate"),
        ({"prepare": {"epochs": 0, "patience": 2}}, "prepare.patience"),
        ({"quantize": {"qat": {**NO_QAT, "order": "depth"}}}, "quantize.qat.order"),
        ({"prune": {"recovery": {"epochs": 0, "by": "teacher"}}}, "prune.recovery.by"),
        ({"prune": {"recovery": {"epochs": 0, "adapt_l2": False, "patience": 3}}}, "prune.recovery.adapt_l2"),
    ],
)
def test_what_a_training_without_epochs_does_not_read_is_refused_by_its_key(recipe: dict[str, Any], key: str) -> None:
    stored = Recipe.model_validate(recipe)  # stored recipes load
    with pytest.raises(InvalidSpec) as refused:
        resolve_recipe(recipe, ())
    assert refused.value.param == f"recipe.{key}"
    assert key.rpartition(".")[2] in refused.value.cause
    place = key.split(".")[:-1]
    trained: dict[str, Any] = stored.model_dump(mode="json")
    inner = trained
    for each in place:
        inner = inner[each]
    inner["full" if place[-1] == "qat" else "epochs"] = 2
    resolve_recipe(trained, ())


def test_defaults_say_nothing() -> None:
    for recipe in ({"prepare": {"epochs": 0}}, {"quantize": {"qat": NO_QAT}}, {"prune": {"recovery": {"epochs": 0}}}):
        check_effective(Recipe.model_validate(Recipe.model_validate(recipe).model_dump()))  # as a form sends it, key by key
    for task in TASKS:
        for name in PRESETS:
            check_effective(preset(name, task))


def test_a_preset_without_a_training_loses_the_settings_of_that_training() -> None:
    changed = resolve_recipe({"preset": "quick", "prepare": {"epochs": 0}}, ())
    assert changed.prepare.model_dump(exclude_unset=True) == {"epochs": 0}
    changed = resolve_recipe({"preset": "article", "prune": {"recovery": {"epochs": 0}}, "quantize": {"qat": NO_QAT}}, ())
    assert changed.prune is not None
    assert changed.prune.recovery is not None
    assert changed.prune.recovery.patience is None
    assert merged(PRESETS["quick"][0], {"prepare": {"epochs": 3}})["prepare"] == {"rate": 1e-4, "patience": 2, "epochs": 3}
    with pytest.raises(InvalidSpec, match=r"rate of prepare"):
        resolve_recipe({"preset": "quick", "prepare": {"epochs": 0, "rate": 1e-3}}, ())


def test_a_stored_recipe_with_such_keys_is_retried_with_remedies() -> None:
    stored = {"prepare": {"epochs": 0, "rate": 1e-4}, "quantize": {"qat": {**NO_QAT, "rate": 1e-3}}}
    batch = Remedy(key="recipe.train.batch", now=32, proposed=16, why="memory")
    assert resolve_recipe(apply_remedies(stored, [batch]), ()).prepare.rate is None
    longer = Remedy(key="recipe.quantize.qat.quantized", now=0, proposed=2, why="retention")
    found = resolve_recipe(apply_remedies(stored, [batch, longer]), ())
    assert found.quantize is not None
    assert found.quantize.qat is not None
    assert (found.quantize.qat.quantized, found.quantize.qat.rate) == (2, 1e-3)  # it trains, so its rate counts
