"""Pruning a network in the engine: statistics follow the cut, blocks go, and steps choose among what is left."""

import copy
from typing import Any

import pytest
import torch

from compression.engine.context import StageContext
from compression.modalities.sampling import shuffled_rows
from compression.models.adapters.network.statistics import reestimate_statistics, running_norms
from compression.models.adapters.registry import adapter_of
from compression.pruning.scores import CALIBRATION_BATCH
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import prune
from tests.support.tiny_maps import network_state, trained


@pytest.fixture(scope="module")
def whole() -> Any:
    return trained(drawn_network(resnet((3, 2))))


def state_of(whole: Any, settings: Prune) -> StageContext:
    recipe = Recipe(
        prepare=Prepare(epochs=0), quantize=None, prune=settings, distill=None, train=Train(batch=16, precision="float32")
    )
    return network_state(copy.deepcopy(whole), recipe, varies=False)


def test_statistics_are_those_of_the_cut_network(whole: Any) -> None:
    refreshed, stale = (
        state_of(whole, Prune(ratio={"channels": 0.5}, multiple=1, calibration_rows=64, refresh_statistics=refresh))
        for refresh in (True, False)
    )
    for state in (refreshed, stale):
        list(prune(state))
    ours, theirs = (running_norms(state.model) for state in (refreshed, stale))
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(ours, theirs, strict=True))
    assert not any(torch.allclose(one.running_var, other.running_var) for one, other in zip(ours, theirs, strict=True))
    again = copy.deepcopy(refreshed.model)
    rows = shuffled_rows(refreshed.rows["train"], 64, refreshed.recipe.train.seed)
    reestimate_statistics(again, (batch.inputs for batch in rows.by_length(CALIBRATION_BATCH)))
    assert all(torch.equal(one.running_mean, other.running_mean) for one, other in zip(ours, running_norms(again), strict=True))


def test_the_blocks_that_change_least_go(whole: Any) -> None:
    changed = copy.deepcopy(whole)
    family = adapter_of(changed)
    block = family.network(changed.config).blocks[1]
    last = [name for name in block.layers if name.startswith("batch_norm")][-1]
    with torch.no_grad():
        changed.get_submodule(last).weight.zero_()
        changed.get_submodule(last).bias.zero_()
    state = state_of(changed, Prune(ratio={"layers": 0.3}, refresh_statistics=False))
    list(prune(state))
    assert family.shape_of(state.model.config).layers == 3  # of four
    rows = state.rows["validation"].pixels
    with torch.no_grad():
        assert torch.allclose(state.model(rows).logits, changed(rows).logits, atol=1e-4)
    assert not hasattr(state.model, last)


def test_steps_cut_the_network_that_the_step_before_left(whole: Any) -> None:
    recovery = Recovery(epochs=2, rate=1e-2, shallow_first=False)
    state = state_of(
        whole,
        Prune(ratio={"channels": 0.5, "hidden": 0.3}, axes=("hidden", "channels"), multiple=1, steps=2, recovery=recovery),
    )
    aimed = adapter_of(whole).shape_of(whole.config)
    list(prune(state))
    found = adapter_of(state.model).shape_of(state.model.config)
    assert found.widths.keys() == aimed.widths.keys()
    assert all(
        found.widths[key] == round(units * (0.5 if key.startswith("channels") else 0.7)) for key, units in aimed.widths.items()
    )
    assert sum("of 2 alone" in note for note in state.notes) == 2
