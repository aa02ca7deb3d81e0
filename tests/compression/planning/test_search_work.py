"""Forecasts count the time for which a search looks for widths, up to its budget."""

import pytest

from compression.planning.preflight import preflight
from compression.planning.table_work import search_seconds
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.searches import SEARCHES
from tests.compression.planning.test_planning import DATA, MODEL


def prune(search: str | None, **budget: float) -> Prune:
    return Prune.model_validate({"search": search, "search_budget": budget})


def test_a_search_takes_its_evaluations_and_at_most_its_budget() -> None:
    assert search_seconds(prune(None)) == search_seconds(prune("solver")) == 0
    for name in ("tpe", "nsga2", "rl"):
        assert 0 < search_seconds(prune(name, evaluations=100)) == pytest.approx(100 * SEARCHES[name].evaluation_seconds)
        assert search_seconds(prune(name, evaluations=20_000, seconds=7.5)) == 7.5


def test_a_forecast_with_a_search_is_longer_by_it() -> None:
    solved, searched = (
        preflight(MODEL, DATA, Recipe(prune=prune(name)), Evaluate()).estimate.minutes for name in ("solver", "rl")
    )
    assert searched > solved + 1
