"""Forecasts count the time for which a search looks for widths, up to its budget."""

from dataclasses import replace

import pytest

from compression.models.architectures.network_shapes import whole_shape
from compression.planning.preflight import preflight
from compression.planning.table_work import SOLUTION_SECONDS, cuts, search_seconds, solver_seconds
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.searches import SEARCHES
from tests.compression.planning.test_network_rules import FACTS
from tests.compression.planning.test_planning import DATA, MODEL
from tests.compression.planning.test_table_work import COUNTED


def prune(search: str | None, **budget: float) -> Prune:
    return Prune.model_validate({"search": search, "search_budget": budget})


def test_a_search_takes_its_evaluations_and_at_most_its_budget() -> None:
    assert search_seconds(prune(None)) == search_seconds(prune("solver")) == 0
    for name in ("tpe", "nsga2", "rl"):
        assert 0 < search_seconds(prune(name, evaluations=100)) == pytest.approx(100 * SEARCHES[name].evaluation_seconds)
        assert search_seconds(prune(name, evaluations=20_000, seconds=7.5)) == 7.5


def test_the_solver_takes_time_for_each_choice_and_solution() -> None:
    solved, each = prune("solver").model_copy(update={"axes": ("hidden", "ffn", "layers")}), 13 * SOLUTION_SECONDS
    assert solver_seconds(COUNTED, solved, None) == pytest.approx(2 * each)
    free = solved.model_copy(update={"free_widths": True})
    assert solver_seconds(COUNTED, free, None) == pytest.approx((1 + COUNTED.shape.layers) * each)
    network = replace(COUNTED, shape=whole_shape(FACTS), network=FACTS)
    channels, blocks = (prune("solver").model_copy(update={"axes": axes}) for axes in (("channels",), ("channels", "layers")))
    alone = solver_seconds(network, channels, None)
    assert alone >= each
    assert solver_seconds(network, blocks, None) == pytest.approx(alone + len(FACTS.blocks) * each)
    # A share is found by halving, once for each round.
    assert solver_seconds(COUNTED, solved, Auto(rounds=4)) == pytest.approx(2 * each * (13 + 4 * 8) / 13)
    assert (cuts(None), cuts(Auto(rounds=4))) == (13, 17)


def test_a_forecast_with_a_search_is_longer_by_it() -> None:
    solved, searched = (
        preflight(MODEL, DATA, Recipe(prune=prune(name)), Evaluate()).estimate.minutes for name in ("solver", "rl")
    )
    assert searched > solved + 1
