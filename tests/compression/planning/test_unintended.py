"""Keys of a recipe that likely do something else than was intended are told with the request."""

import pytest

from compression.planning.preflight import preflight
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe
from tests.compression.planning.test_planning import DATA, MODEL


def told(recipe: Recipe, start: str) -> bool:
    return any(warning.startswith(start) for warning in preflight(MODEL, DATA, recipe, Evaluate()).warnings)


@pytest.mark.parametrize(
    ("prepare", "is_told"),
    [
        (Prepare(), False),
        (Prepare(patience=1), True),
        (Prepare(patience=2), False),
        (Prepare(epochs=8, patience=1), True),
        (Prepare(epochs=1, patience=1), False),
        (Prepare(epochs=0, patience=1), False),
    ],
)
def test_a_patience_of_one_epoch_leaves_retention_unproven(prepare: Prepare, is_told: bool) -> None:
    assert told(Recipe(prepare=prepare), "prepare.patience: 1 ends") == is_told


@pytest.mark.parametrize(
    ("search", "reconstruct", "is_told"), [(None, True, False), ("solver", True, True), ("solver", False, False)]
)
def test_what_a_search_has_cut_is_not_solved_again(search: str | None, reconstruct: bool, is_told: bool) -> None:
    cut = Prune.model_validate({"search": search, "reconstruct": reconstruct})
    assert told(Recipe(prune=cut), "prune.reconstruct is not done") == is_told
