"""Stages on rows that look different each time: teachers see what the student sees, and a stopped attempt goes on alike."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compression.engine.context import StageContext
from compression.engine.stages.linear_probe import linear_probe
from compression.engine.stages.objectives import output_objective
from compression.engine.stages.rate_search import RateSearch
from compression.engine.stages.recover import freeze
from compression.evaluation.validate import validate
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.planning import preparation as rules
from compression.quantization.precision import gradient_precision
from compression.schema.recipe.distill import Distill, Teachers
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.interrupts import Pause
from compression.system.progress import run_silently
from tests.compression.training.conftest import Listener, checkpointer, resumed
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import distill, prune
from tests.support.tiny_maps import network_state, trained

TEACHERS = Teachers(seeds=2, fusion="validation")
SETTINGS = Distill(epochs=3, rate=1e-2, hidden=0.5, attention=0.5, teachers=TEACHERS)
TRAIN = Train(batch=16, precision="float32")


@pytest.fixture(scope="module")
def taught() -> list[Any]:
    """Two networks that know the answer, and a third of half their widths that has forgotten it."""
    teachers = [trained(drawn_network(resnet((1, 1)), seed)) for seed in (0, 1)]
    family, first = adapter_of(teachers[0]), teachers[0]
    widths = family.shape_of(first.config).widths
    plan = PruningPlan({key: torch.arange(units // 2) for key, units in widths.items()})
    return [*teachers, family.narrowed(first, plan)]


def state_of(taught: list[Any], settings: Distill = SETTINGS) -> StageContext:
    first, second, student = copy.deepcopy(taught)
    state = network_state(student, Recipe(prepare=Prepare(epochs=0), quantize=None, prune=None, distill=settings, train=TRAIN))
    state.teacher, state.originals = first.requires_grad_(requires_grad=False), [second]
    return state


def weights(state: StageContext) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def test_all_teachers_see_the_very_batch_and_the_student_learns(taught: list[Any]) -> None:
    state, seen = state_of(taught), dict[str, list[Tensor]]()
    for name, model in (("student", state.model), ("first", state.teacher), ("second", state.originals[0])):
        seen[name] = []
        model.register_forward_pre_hook(lambda _, __, given, to=seen[name]: to.append(given["pixel_values"]), with_kwargs=True)
    before = validate(state.model, state.rows["validation"]).score
    list(distill(state))
    assert validate(state.model, state.rows["validation"]).score > max(before + 0.1, 0.85)
    last = state.recipe.distill.epochs * 4
    varied = [one for one in seen["second"] if len(one) == 16][-last:]
    assert all(any(one.equal(other) for other in seen["student"]) for one in varied)
    assert all(any(one.equal(other) for other in seen["first"]) for one in varied)
    assert len({one.sum().item() for one in varied}) == last  # no batch comes twice
    (note,) = [note for note in state.notes if note.startswith("Teachers")]
    assert "the baseline" in note
    assert any("Stages whose last feature maps" in note for note in state.notes)
    assert not state.originals


def test_distillation_that_was_stopped_ends_bit_for_bit_alike(taught: list[Any], tmp_path: Path) -> None:
    whole, stopped, again = (state_of(taught) for _ in range(3))
    list(distill(whole))
    (tmp_path / "kept").mkdir()
    listener, asked = Listener(tmp_path / "kept"), iter([False] * 6 + [True] * 99)
    stopped.checkpointer = checkpointer(tmp_path, seconds=None, pause_asked=lambda: next(asked))
    with pytest.raises(Pause):
        listener.hear(distill(stopped))
    again.checkpointer = resumed(tmp_path, listener, 1)
    list(distill(again))
    assert all(value.equal(weights(whole)[name]) for name, value in weights(again).items())
    assert again.notes == whole.notes


def test_recovery_asks_the_baseline_on_each_batch(taught: list[Any]) -> None:
    state = state_of(taught)
    prune = Prune(recovery=Recovery(by="teacher"))
    state.recipe = state.recipe.model_copy(update={"prune": prune, "distill": None})
    objective = run_silently(output_objective(state, state.rows["train"]))
    batch = next(iter(state.rows["train"].shuffled(8, 5)))
    assert not objective.teacher.asks
    with gradient_precision("float32"):  # else a processor with bfloat16 asks in that
        assert objective.teacher.outputs(batch).logits.equal(state.teacher(batch.pixels).logits)


def test_rates_are_probed_from_the_same_statistics(taught: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "PROBE_STEPS", 4)
    state = state_of(taught)
    state.recipe = state.recipe.model_copy(update={"prepare": Prepare()})
    before = weights(state)
    search = RateSearch(state, state.model, 0, new_head=False, rate=None, tried=[])
    list(search.steps())
    assert search.tried
    assert all(value.equal(before[name]) for name, value in weights(state).items())


def test_a_linear_probe_reads_the_last_map(taught: list[Any]) -> None:
    state = state_of(taught)
    state.model = copy.deepcopy(taught[0])
    assert linear_probe(state) > 0.85


def test_a_cut_network_recovers_from_shallow_to_deep_by_what_the_baseline_sees(taught: list[Any]) -> None:
    state = state_of(taught)
    state.model = copy.deepcopy(taught[0])
    recovery = Recovery(epochs=4, rate=1e-2, by="teacher")
    settings = Prune(ratio={"channels": 0.5}, multiple=1, calibration_rows=32, recovery=recovery)
    state.recipe = state.recipe.model_copy(update={"prune": settings, "distill": None})
    before = sum(parameter.numel() for parameter in state.model.parameters())
    list(prune(state))
    assert sum(parameter.numel() for parameter in state.model.parameters()) < 0.8 * before
    assert validate(state.model, state.rows["validation"]).score > 0.85
    assert any("all of the model in epoch" in note for note in state.notes)
    layers = adapter_of(state.model).layer_parameters(state.model)
    parameters = {id(parameter) for parameter in state.model.parameters()}
    before_epoch = partial(freeze, state.model, Recovery(epochs=len(layers)))
    for epoch in range(1, len(layers) + 1):
        before_epoch(epoch)
        learning = {id(parameter) for parameter in state.model.parameters() if parameter.requires_grad}
        shallow = {id(parameter) for layer in layers[:epoch] for parameter in layer}
        assert learning == (parameters if epoch == len(layers) else shallow)
