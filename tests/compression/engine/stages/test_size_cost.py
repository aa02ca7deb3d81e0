"""What a search for a size makes small is known before anything is trained, and is of the uncut model."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compression.engine.context import StageContext
from compression.engine.stages.search_refusals import check_search_targets
from compression.engine.stages.size_solver import SizeCost, latency_cost
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import NETWORK
from compression.planning.device_times import ShapeTimes
from compression.schema.errors import MissingResource
from compression.schema.recipe.auto import Auto
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts
from tests.compression.engine.stages.test_solved_widths import encoder_state, map_state, with_times
from tests.support.device_tables import made_table
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network


def test_a_search_by_latency_without_a_table_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    state = encoder_state(tmp_path)
    state.recipe = state.recipe.model_copy(update={"auto": Auto(objective="latency")})
    with pytest.raises(MissingResource) as caught:
        list(check_search_targets(state))
    assert caught.value.param == "recipe.auto.objective"
    with_times(state)
    assert list(check_search_targets(state)) == []


def cost_of(state: StageContext, whole: Shape, network: NetworkFacts) -> SizeCost:
    job = latency_cost(state, whole, None, network)
    with pytest.raises(StopIteration) as done:
        next(job)
    found: SizeCost = done.value.value
    return found


def test_milliseconds_are_of_the_uncut_network_whatever_the_context_has_by_then(tmp_path: Path) -> None:
    state = map_state(tmp_path, axes=["channels", "layers"])
    family = adapter_of(state.model)
    whole, network = family.shape_of(state.model.config), family.network(state.model.config)
    times = ShapeTimes(made_table(), NETWORK, network, tokens=1)

    def seen_through(known: ShapeTimes) -> SizeCost:
        def device_times() -> Generator[Any, None, ShapeTimes]:
            yield from ()
            return known

        state.device_times = device_times
        return cost_of(state, whole, network)

    smaller = drawn_network(resnet((1, 1), 8))
    cut = adapter_of(smaller).network(smaller.config)
    assert seen_through(replace(times, network=cut)).whole == seen_through(times).whole > 0
