"""The stage that prunes cuts a network to the planned widths, and its report has each layer's."""

from collections.abc import Iterator
from typing import Any

import pytest

from compression.engine.stages import prune as prune_stage
from compression.engine.stages.prune import aimed, plan_shape
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import own_axes
from compression.models.architectures.shapes import shape_at
from compression.pruning.prune_progress import PruneProgress
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.progress import run_silently
from tests.support.network_graphs import resnet, vit
from tests.support.network_models import drawn_network
from tests.support.stage_runs import counter, counts, prune
from tests.support.tiny_maps import network_state


def state_of(settings: dict[str, Any], graph: Any = None) -> Any:
    model = drawn_network(graph or resnet((2, 2), 8))
    asked = Prune.model_validate({"importance": "l1_weight", "calibration_rows": 32, **settings})
    asked = own_axes(adapter_of(model).shape_of(model.config), asked, NETWORK.usual_axes)
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=asked, distill=None, train=Train(precision="float32"))
    return network_state(model, recipe, varies=False)


@pytest.mark.parametrize("importance", ["l1", "l2", "l1_weight", "l2_weight", "bn_scale", "taylor"])
def test_every_importance_cuts_to_the_planned_shape(importance: str) -> None:
    state = state_of({"importance": importance, "target_flops": 0.4, "axes": ["channels", "hidden"]})
    family, settings = adapter_of(state.model), state.recipe.prune
    whole = family.network(state.model.config).multiply_adds()
    ratios, planned = plan_shape(state.model, settings, counts(state.model))
    assert aimed(state.model, state.recipe, None, state.length) == planned
    assert counter(state.model)(planned) < counter(state.model)(family.shape_of(state.model.config))
    list(prune(state))
    assert family.shape_of(state.model.config) == planned
    assert 0.4 * whole < family.network(state.model.config).multiply_adds() <= 0.6 * whole
    told = state.result.pruning
    assert set(told) == {"channels", "hidden"}
    assert told["channels"]["asked"] == ratios["channels"] > 0
    for axis, cut in told.items():
        assert cut["after"] == sum(each["after"] for each in cut["groups"].values())
        assert all(each["taken"] == 1 - each["after"] / each["before"] for each in cut["groups"].values())
        assert {key: each["after"] for key, each in cut["groups"].items()} == {
            key: units for key, units in planned.widths.items() if key.startswith(axis)
        }


def test_blocks_go_by_influence_and_widths_of_the_others_are_as_asked() -> None:
    state = state_of({"ratio": {"layers": 0.3, "channels": 0.5}})
    list(prune(state))
    shape = adapter_of(state.model).shape_of(state.model.config)
    assert (shape.layers, state.result.pruning["layers"]["after"]) == (2, 2)
    assert {units for key, units in shape.widths.items() if key.startswith("channels")} <= {4, 8}


def test_steps_end_at_the_planned_shape_and_curves_are_of_each_axis_alone() -> None:
    recovery = {"epochs": 2, "rate": 1e-3, "shallow_first": False}
    state = state_of({"ratio": 0.5, "steps": 2, "recovery": recovery, "sensitivity": True}, vit(1, 16, 4))
    planned = plan_shape(state.model, state.recipe.prune, counts(state.model))[1]
    list(prune(state))
    assert adapter_of(state.model).shape_of(state.model.config) == planned
    assert planned.heads == 2
    assert set(state.result.sensitivity) == {"heads", "ffn", "hidden", "layers"}
    heads = state.result.sensitivity["heads"]
    assert [round(point.taken, 2) for point in heads] == sorted(round(point.taken, 2) for point in heads)
    assert heads[-1].taken == 0.5


def test_what_a_target_leaves_over_stays_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery = {"epochs": 1, "rate": 1e-3, "shallow_first": False}
    asked: dict[str, Any] = {"target_flops": 0.4, "axes": ["channels"], "recovery": recovery}
    state, saved = state_of(asked, resnet((3, 3), 16)), list[Any]()

    def recover(*given: Any) -> Iterator[Event]:
        saved.append(PruneProgress.of_tensors(given[-1]))
        yield Log(message="It recovers.")

    monkeypatch.setattr(prune_stage, "recover", recover)
    ratios, planned = plan_shape(state.model, state.recipe.prune, counts(state.model))
    whole, network = (getattr(adapter_of(state.model), name)(state.model.config) for name in ("shape_of", "network"))
    assert planned != shape_at(NETWORK, whole, state.recipe.prune, ratios, network), "no ratios lead to it"
    list(prune(state))
    again = state_of(asked, resnet((3, 3), 16))
    found = run_silently(prune_stage._solved(again, again.recipe.prune, whole, saved[0].scores, saved[0]))
    assert found.shape == planned == adapter_of(state.model).shape_of(state.model.config)
