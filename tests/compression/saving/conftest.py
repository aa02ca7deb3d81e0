"""Each stage that trains, on the tiny model: what comes before it, a saver, and who takes each save as a supervisor does."""

import shutil
from collections.abc import Callable, Iterator
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
from tests.compression.conftest import state_of, tiny_config
from tests.compression.stages import distill, prepare, prune, quantize

RECIPE = Recipe(
    prepare=Prepare(epochs=3, rate=3e-3),
    quantize=Quantize(qat=Qat(full=1, ramp=1, quantized=1, rate=1e-3)),
    prune=Prune(ratio=0.5, multiple=8, calibration_rows=64, reconstruct=True, recovery=Recovery(epochs=4, rate=1e-3)),
    distill=Distill(epochs=3, rate=3e-3, attention=1.0),
    train=Train(batch=64, max_length=32),
)
WORK: dict[Stage, Callable[[StageContext], Iterator[Event]]] = {
    "baseline": prepare,
    "quantized": quantize,
    "pruned": prune,
    "distilled": distill,
}
STEPS_AN_EPOCH = 5


def state_before(stage: Stage, device: str = "cpu", recipe: Recipe = RECIPE) -> StageContext:
    """Do all that comes before a stage, without saving."""
    torch.manual_seed(0)
    state = state_of(BertForSequenceClassification(tiny_config(num_labels=2)).eval().to(device), recipe)
    state.budget = Budget(recipe.train.max_steps, recipe.train.max_minutes)
    for name, work in WORK.items():
        if name == stage:
            break
        list(work(state))
        state.notes.clear()
    return state


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
