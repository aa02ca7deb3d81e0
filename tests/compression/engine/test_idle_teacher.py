"""The teacher is on the device while it is asked, and at no other time: during a cut it is in the host's memory."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import isgeneratorfunction
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from compression.distillation import teacher
from compression.engine import dataset_run
from compression.engine.context import StageContext
from compression.engine.job import Job
from compression.engine.stages import (
    points,
    prune as prune_stage,
    short_distillation,
    size_rounds,
    size_training,
    teacher_ensemble,
)
from compression.engine.stages.registry import run_stage
from compression.evaluation.validate import Validation
from compression.quantization import precision
from tests.support import placement
from tests.support.engine_jobs import RECIPE, spec_of
from tests.support.second_device import DEVICE, second_device

HOST = torch.device("cpu")
SCENARIOS = placement.scenarios("float32")
AUTO: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 1, "rate": 3e-3},
    "quantize": None,
    "prune": {"search": "solver", "ratio": 0.5, "multiple": 8, "calibration_rows": 32, "axes": ["ffn"]},
    "distill": {
        "epochs": 1,
        "rate": 3e-3,
        "general": {"epochs": 1, "attention": 0.0, "teacher": "base"},
        "teachers": {"seeds": 2},
    },
    "auto": {"rounds": 2, "steps": 4, "budget_minutes": 1000},
}


def places(model: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in [*model.parameters(), *model.buffers()]}


@dataclass
class Watch:
    """Where the teacher is whenever any model runs, by what goes on: a cut, unless something else is said."""

    state: StageContext
    found: dict[str, set[torch.device]] = field(default_factory=dict)
    kind: str = "cut"

    def see(self, module: nn.Module, _: Any) -> None:
        if isinstance(module, PreTrainedModel) and self.state.teacher is not None:
            self.found.setdefault(self.kind, set()).update(places(self.state.teacher))

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    seen = Watch(cast(StageContext, None))
    hook = register_module_forward_pre_hook(seen.see)
    yield seen
    hook.remove()


@pytest.fixture
def says(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, str], None]:
    """Have a function, or a generator, say of what kind that is which goes on while it runs."""

    def say(owner: Any, name: str, kind: str) -> None:
        plain = getattr(owner, name)

        def called(*given: Any) -> Any:
            with watch.during(kind):
                return plain(*given)

        def relayed(*given: Any, **named: Any) -> Any:
            with watch.during(kind):
                return (yield from plain(*given, **named))

        monkeypatch.setattr(owner, name, relayed if isgeneratorfunction(plain) else called)

    return say


@pytest.mark.parametrize("name", SCENARIOS)
def test_during_a_cut_no_weight_of_the_teacher_is_on_the_device(
    name: str, watch: Watch, says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By activations, Taylor's scores and norms; with least squares, curves and steps: encoders, decoders and networks."""
    if name.endswith("asked"):
        monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    opened, recipe = SCENARIOS[name]
    says(prune_stage, "recover", "recovery")
    with second_device() as device:
        state = watch.state = opened(device, recipe)
        state.scratch = tmp_path
        copied = copies_of(monkeypatch, state.model)
        list(placement.prepare(state))
        assert copied == [{HOST}], "a card has no need of both"
        weights = {key: value.clone() for key, value in state.teacher.state_dict().items()}
        list(placement.quantize(state))
        assert watch.found.pop("cut") == {HOST}, "calibration, and training on labels"
        list(placement.prune(state))
        assert watch.found["cut"] == {HOST}
        by = recipe.prune.recovery and recipe.prune.recovery.by
        assert watch.found.get("recovery") == {"labels": {HOST}, "teacher": {DEVICE}, None: None}[by]
        assert places(state.teacher) == {HOST}
        assert all(value.equal(weights[key]) for key, value in state.teacher.state_dict().items())
        watch.found.clear()
        list(placement.distill(state))
        assert DEVICE in watch.found["cut"]
        assert places(state.teacher) == {HOST}


def copies_of(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> list[set[torch.device]]:
    """Return a list that gets, whenever a model is copied, where it is."""
    plain, found = copy.deepcopy, list[set[torch.device]]()

    def copied(one: Any, *memo: Any) -> Any:
        if one is model:
            found.append(places(one))
        return plain(one, *memo)

    monkeypatch.setattr(copy, "deepcopy", copied)
    return found


def opened_job(encoder: Path, reviews: Path, place: Path, recipe: dict[str, Any]) -> StageContext:
    """Return the state of a job on the device, before its first stage."""
    spec = spec_of(encoder, reviews, recipe=recipe, targets={"retention": 0.9}, output=str(place / "out"))
    state = Job.open(spec, place).part.state
    few = {"train": 32, "validation": 16, "test": 8}
    state.rows = {split: rows.at(list(range(min(len(rows), few[split])))) for split, rows in state.rows.items()}
    return state


def watch_cuts(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, idle: Callable[[], list[nn.Module]]) -> list[Any]:
    """Return a list that gets, at each cut, the places of the models that are not cut."""
    plain, found = getattr(owner, name), list[Any]()

    def cut(context: StageContext, uncut: PreTrainedModel, *given: Any) -> Any:
        found.append([places(model) for model in idle() if model is not uncut])
        return plain(context, uncut, *given)

    monkeypatch.setattr(owner, name, cut)
    return found


@pytest.mark.parametrize("seeds", [1, 2])
def test_rounds_and_other_sizes_are_cut_without_the_models_that_they_do_not_read(
    seeds: int, watch: Watch, says: Any, encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide is the original, or the second of two, which the rounds share."""
    scores, guides, plain = count(1.0), list[PreTrainedModel](), short_distillation.ensemble_outputs
    monkeypatch.setattr(teacher_ensemble, "validate", lambda *_: Validation(next(scores), 0.0))

    def outputs(*given: Any) -> Any:
        found = yield from plain(*given)
        guides.append(found.guide)
        return found

    monkeypatch.setattr(short_distillation, "ensemble_outputs", outputs)
    for owner in (size_rounds, size_training):
        says(owner, "trained", "judged")
        says(owner, "judged_original", "original")
    says(short_distillation, "train_task", "training")
    says(short_distillation.ShortDistillations, "run", "asked")
    says(size_training.SizedTraining, "_train", "asked")
    shares, over = iter([(0.8, None), (0.7, None)]), (0.6, "time is over")
    monkeypatch.setattr(size_training, "preference", lambda _, place: place)  # the second is not the best, and goes
    monkeypatch.setattr(size_training, "another_share", lambda *_, **__: next(shares, over))
    monkeypatch.setattr(size_rounds, "best_share", lambda *_: 0.6)
    with second_device() as device:
        monkeypatch.setattr(dataset_run, "training_device", lambda: device)
        recipe = {**AUTO, "distill": {**AUTO["distill"], "teachers": {"seeds": seeds}}}
        state = watch.state = opened_job(encoder, reviews, tmp_path, recipe)
        cuts = watch_cuts(monkeypatch, size_rounds, "cut_of", lambda: [state.teacher, *state.originals, *guides])
        cut_after = watch_cuts(monkeypatch, prune_stage, "updated_cut", lambda: [state.teacher, *state.originals])
        others = watch_cuts(monkeypatch, size_training, "cut_of", lambda: [state.teacher, state.model])
        list(placement.prepare(state))
        uncut = copy.deepcopy(state.model).cpu()
        state.model_of = lambda _: copy.deepcopy(uncut)
        list(placement.prune(state))
        assert guides
        assert (guides[0] is state.teacher) == (seeds == 1)
        list(placement.distill(state))
        idle = [[1, 2], [1], [2, 2]] if seeds == 1 else [[2, 3], [2], [2, 2]]
        assert [list(map(len, each)) for each in (cuts, cut_after, others)] == idle
        assert all(where == {HOST} for each in cuts + cut_after + others for where in each)
        assert (watch.found["cut"], watch.found["training"]) == ({HOST}, {DEVICE if seeds == 1 else HOST})
        assert DEVICE in watch.found["asked"]
        assert (watch.found["original"], watch.found["judged"]) == ({DEVICE}, {HOST})
        assert (places(state.teacher), places(state.model)) == ({HOST}, {DEVICE})


def test_a_next_point_is_cut_without_the_teacher(
    watch: Watch, says: Any, encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(points, "distilled", "asked")
    recipe = {**AUTO, "auto": None, "prune": {**AUTO["prune"], "points": 2}, "distill": {"epochs": 1, "rate": 3e-3}}
    with second_device() as device:
        monkeypatch.setattr(dataset_run, "training_device", lambda: device)
        state = watch.state = opened_job(encoder, reviews, tmp_path, recipe)
        list(placement.prepare(state))
        list(placement.prune(state))
        list(placement.distill(state))
        watch.found.clear()
        list(run_stage(state, "point2"))
        assert watch.found["cut"] == {HOST}
        assert DEVICE in watch.found["asked"]
        assert places(state.teacher) == {HOST}
