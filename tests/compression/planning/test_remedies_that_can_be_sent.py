"""What is offered is a recipe that there is: of bits that a search chooses too."""

from types import SimpleNamespace
from typing import Any

import pytest

from compression.planning.advisor import _may_be_sent
from compression.planning.auto_remedies import of_sizes
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Remedy

PRUNE = {"search": "solver", "target_bytes": 2e7, "mixed_bits": True}
MIXED: dict[str, Any] = {"quantize": {"scheme": "weight-only-int4"}, "prune": PRUNE}


def remedy(key: str, proposed: Any) -> Remedy:
    return Remedy(key=f"recipe.{key}", now=None, proposed=proposed, why="It helps.")


@pytest.mark.parametrize(
    ("key", "proposed", "sent"),
    [
        ("quantize", None, False),
        ("quantize.scheme", "dynamic-int8", False),
        ("prune.target_bytes", None, False),
        ("prune.target_bytes", 4e7, True),
        ("prune", None, True),
        ("distill.epochs", 20, True),
    ],
)
def test_a_remedy_that_no_recipe_may_have_is_not_offered(key: str, proposed: Any, sent: bool) -> None:
    case: Any = SimpleNamespace(recipe=Recipe.model_validate(MIXED), streamed=False)
    assert _may_be_sent(case, remedy(key, proposed)) == sent
    plain: Any = SimpleNamespace(
        recipe=Recipe.model_validate({**MIXED, "prune": {**PRUNE, "mixed_bits": False}}), streamed=False
    )
    assert _may_be_sent(plain, remedy(key, proposed))


@pytest.mark.parametrize(("bytes_", "more"), [(2e7, 4e7), (0.4, 0.2)])
def test_larger_sizes_are_offered_with_more_bytes_where_bits_need_a_limit(bytes_: float, more: float) -> None:
    recipe = Recipe.model_validate({**MIXED, "prune": {**PRUNE, "target_bytes": bytes_}, "auto": {"budget_minutes": 5}})
    (found,) = [one for one in of_sizes(recipe, (), missed=True) if one.key == "recipe.prune.target_bytes"]
    assert found.proposed == more
    case: Any = SimpleNamespace(recipe=recipe, streamed=False)
    assert _may_be_sent(case, found)
    free = recipe.model_copy(update={"prune": recipe.prune and recipe.prune.model_copy(update={"mixed_bits": False})})
    (found,) = [one for one in of_sizes(free, (), missed=True) if one.key == "recipe.prune.target_bytes"]
    assert found.proposed is None
