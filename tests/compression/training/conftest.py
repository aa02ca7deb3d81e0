"""Each stage that trains, on the tiny model: what comes before it, a saver, and who takes each save as a supervisor does."""

import copy
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from compression.engine.context import StageContext
from compression.schema.events import Event, TrainingSaved
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.stages import Stage
from compression.system.sealed_folder import digest
from compression.training.budget import Budget
from compression.training.save import FOLDER, TrainingCheckpointer
from tests.support.stage_runs import distill, prepare, prune, quantize
from tests.support.tiny_bert import state_of, tiny_config

RECIPE = Recipe(
    prepare=Prepare(epochs=3, rate=3e-3),
    quantize=Quantize(qat=Qat(full=1, ramp=1, quantized=1, rate=1e-3)),
    prune=Prune(ratio=0.5, multiple=8, calibration_rows=64, reconstruct=True, recovery=Recovery(epochs=4, rate=1e-3)),
    distill=Distill(epochs=3, rate=3e-3, attention=1.0),
    train=Train(batch=64, max_length=32),
)
WORK = {"baseline": prepare, "quantized": quantize, "pruned": prune, "distilled": distill}
STEPS_AN_EPOCH = 5


def state_before(stage: Stage, device: str = "cpu", recipe: Recipe = RECIPE) -> StageContext:
    """Return a state of its own in which all that comes before a stage is done, without saving."""
    state, drawn = _before(list(WORK).index(stage), device, recipe.model_dump_json())
    torch.set_rng_state(drawn)
    return copy.deepcopy(state, {id(state.rows): state.rows})


@functools.cache
def _before(stages: int, device: str, recipe: str) -> tuple[StageContext, Tensor]:
    """Do so many stages, once for all tests; return the state and that of the random numbers."""
    if stages == 0:
        torch.manual_seed(0)
        asked = Recipe.model_validate_json(recipe)
        state = state_of(BertForSequenceClassification(tiny_config(num_labels=2)).eval().to(device), asked)
        state.budget = Budget(asked.train.max_steps, asked.train.max_minutes)
        return state, torch.get_rng_state()
    before, drawn = _before(stages - 1, device, recipe)
    torch.set_rng_state(drawn)
    state = copy.deepcopy(before, {id(before.rows): before.rows})
    list(list(WORK.values())[stages - 1](state))
    state.notes.clear()
    return state, torch.get_rng_state()


def weights(state: StageContext) -> list[Tensor]:
    return [parameter.detach().cpu().clone() for parameter in state.model.parameters()]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


@dataclass
class Listener:
    """Takes each save as a supervisor does: keeps its files, then removes its folder."""

    kept: Path
    saves: list[TrainingSaved] = field(default_factory=list)

    def hear(self, events: Iterator[Event]) -> list[Event]:
        others: list[Event] = []
        for event in events:
            if not isinstance(event, TrainingSaved):
                others.append(event)
                continue
            self.saves.append(event)
            place = self.kept.parent / "out" / event.folder
            for file in event.files:
                assert digest(place / file.path) == file.sha256
            place.rename(self.kept / str(len(self.saves)))
        return others


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    (tmp_path / "kept").mkdir()
    return Listener(tmp_path / "kept")


def checkpointer(tmp_path: Path, **changes: Any) -> TrainingCheckpointer:
    return TrainingCheckpointer(**{"folder": tmp_path / "out", "fingerprint": "same work", "seconds": 0.0, **changes})


def resumed(tmp_path: Path, listener: Listener, number: int, **changes: Any) -> TrainingCheckpointer:
    """Lay a kept save where a supervisor lays it; return the new attempt's saver."""
    resume = tmp_path / "resume"
    shutil.rmtree(resume, ignore_errors=True)
    shutil.copytree(listener.kept / str(number), resume / FOLDER)
    made = checkpointer(tmp_path, resume=resume, seconds=None, **changes)
    assert made.look() is None
    return made


def done(stage: Stage, device: str = "cpu", recipe: Recipe = RECIPE, hear: Any = list, **changes: Any) -> StageContext:
    """Do a stage, on a state with such changes; `hear` takes its events."""
    state = state_before(stage, device, recipe)
    for name, value in changes.items():
        setattr(state, name, value)
    hear(WORK[stage](state))
    return state


def go_on(
    stage: Stage, given: TrainingCheckpointer, device: str = "cpu", recipe: Recipe = RECIPE
) -> tuple[StageContext, list[Event]]:
    """Do a stage in a new attempt, whose random numbers and weights are not those of the first."""
    state = state_before(stage, device, recipe)
    torch.manual_seed(4711)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    state.checkpointer = given
    return state, list(WORK[stage](state))
