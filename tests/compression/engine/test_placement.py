"""Each stage keeps its tensors on the job's device: an operator that gets tensors of two devices raises (second_device)."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from compression.distillation import teacher
from compression.engine import dataset_run, shipping
from compression.engine.job import Job
from compression.engine.shipping import ArtifactRequest
from compression.evaluation.lm_eval import harness, harness_job
from compression.modalities.text.augmentation.resources import Resources
from compression.modalities.text.augmentation.source import AugmentationSource
from compression.quantization import precision
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.events import Log
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import JobEvaluate, LmEval, Prepare, Recipe, Train
from compression.system.device import on_cpu
from compression.system.progress import run_silently
from compression.training import trainer
from tests.compression.training.conftest import Listener, listener  # noqa: F401 (a fixture)
from tests.support import placement, tiny_bert, toy_tasks
from tests.support.engine_jobs import spec_of
from tests.support.second_device import DEVICE, DeviceTensor, Misplaced, second_device
from tests.support.unmeasured import unmeasured

SCENARIOS = placement.scenarios("float32")  # so that both devices compute the same numbers
HOST = torch.device("cpu")
INEXACT = ("experts asked",)
"""Jobs whose numbers differ a little between the two (the perplexity after an epoch by 0.06 %): only placement is looked at."""


def finished(name: str, device: torch.device, scratch: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Do all of a job's stages on a device; return its model's weights, and what it says of its scores."""
    opened, recipe = SCENARIOS[name]
    state, notes = opened(device, recipe), list[str]()
    for done in placement.run(state, scratch):
        assert not placement.misplaced(done, device)
        notes += done.notes
    return placement.weights(state.model), notes


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_stages_stay_on_the_device_and_do_the_same_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)  # of which the host may have it alone
    if name.endswith("asked"):
        monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    with second_device() as device:
        there, said = finished(name, device, tmp_path)
    if name in INEXACT:
        return
    here, expected = finished(name, HOST, tmp_path)
    assert said == expected
    assert there.keys() == here.keys()
    assert all(torch.allclose(there[key], here[key], atol=1e-6) for key in here)


@pytest.mark.parametrize(("name", "place"), [*(("encoder cached", place) for place in range(4)), ("decoder cached", 3)])
def test_a_training_is_saved_and_taken_up_on_the_device(
    name: str,
    place: int,
    tmp_path: Path,
    listener: Listener,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (opened, recipe), snapshot, kept = SCENARIOS[name], trainer._Run.snapshot, list[torch.Tensor]()
    monkeypatch.setattr(trainer._Run, "snapshot", lambda self: kept.extend(found := snapshot(self)) or found)
    with second_device() as device:
        before = opened(device, recipe)
        again, found, expected = placement.taken_up(before, place, tmp_path, listener)
        assert not placement.misplaced(again, device)
    assert kept
    assert {one.device for one in kept} == {HOST}  # the best weights so far take none of the device's memory
    assert all(found[key].equal(expected[key]) for key in expected)


@pytest.mark.parametrize("task", toy_tasks.TASKS)
def test_every_task_stays_on_the_device(task: Task, encoder: Path, tmp_path: Path) -> None:
    train = Train(batch=16, max_length=toy_tasks.LENGTH)
    recipe = Recipe(prepare=Prepare(epochs=1, rate=1e-3), quantize=None, prune=None, distill=Distill(epochs=1), train=train)
    _, _, state = toy_tasks.opened(task, tmp_path, encoder, recipe)
    state.rows = {split: rows.at(list(range(16))) for split, rows in state.rows.items()}
    with second_device() as device:
        state.model.to(device)
        list(placement.prepare(state))
        list(placement.distill(state))
        assert not placement.misplaced(state, device)


def test_several_teachers_come_to_the_device_in_turns(tmp_path: Path) -> None:
    with second_device() as device:
        state = placement.seeds_of(placement.trained_on(device, "float32"))
        list(placement.distill(state))
        assert not placement.misplaced(state, device)
        assert any(note.startswith("Teachers, with validation") for note in state.notes)


@pytest.mark.parametrize(("room", "kept"), [(True, None), (False, None), (False, 8)])
def test_several_teachers_of_a_language_model_come_to_the_device(
    room: bool, kept: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    train = Train(batch=4, max_length=placement.LENGTH, precision="float32")
    distill = Distill(epochs=1, attention=1.0, kept=kept, spill_gib=0.0)
    recipe = Recipe(prepare=Prepare(epochs=1, rate=1e-3), distill=distill, train=train)
    with second_device() as device:
        state = placement.decoder(device, recipe)
        state.scratch = tmp_path
        list(placement.prepare(state))
        list(placement.distill(placement.seeds_of(state)))
        assert not placement.misplaced(state, device)
        assert any(note.startswith("Teachers, with validation perplexity") for note in state.notes)


@pytest.mark.parametrize("source", ["embeddings", "masked-lm"])
def test_words_are_looked_for_on_the_device(source: Any, tmp_path: Path) -> None:
    helper = placement.write_helper(tmp_path / "helper")
    augmented = {}
    for device in (HOST, DEVICE):
        with second_device():
            state = placement.encoder(device, SCENARIOS["encoder cached"][1])
            texts = [(text,) for text, _ in tiny_bert.sentences(len(state.rows["train"]), 1)]
            encode = lambda rows, labels: tiny_bert.encoded([(text, "positive") for (text,) in rows])  # noqa: E731
            resources = Resources(None, tmp_path, tmp_path)
            augmenter = AugmentationSource(texts, encode, AutoTokenizer.from_pretrained(helper), resources)
            asked = placement.MASKED.model_copy(
                update={"synonyms": placement.MASKED.synonyms.model_copy(update={"source": source})}
            )
            found = augmenter.augment(asked, 0, state.model, state.rows["train"])
            augmented[device] = run_silently(found).made
    assert augmented[DEVICE] == augmented[HOST] != []


def test_a_model_leaves_the_device_and_comes_back_tied() -> None:
    with second_device() as device:
        opened, recipe = SCENARIOS["decoder cached"]
        state = opened(device, recipe)
        before = placement.weights(state.model)
        with on_cpu(state.model):
            assert {value.device for value in state.model.parameters()} == {HOST}
        assert {value.device for value in state.model.parameters()} == {DEVICE}
        assert state.model.lm_head.weight is state.model.model.embed_tokens.weight
        assert all(value.equal(before[key]) for key, value in placement.weights(state.model).items())


def test_what_is_timed_leaves_the_device(encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Job.open(spec_of(encoder, reviews, output=str(tmp_path / "out")), tmp_path).part
    run.rows, seen = [unmeasured()], list[torch.device]()
    monkeypatch.setattr(dataset_run, "measure_latency", lambda model, *_: seen.append(model.device))
    monkeypatch.setattr(
        dataset_run, "measure_beside", lambda model, others, *_: (seen.extend((model.device, o.device)) for o in others)
    )
    with second_device() as device:
        run.state.model.to(device)
        run.timed(run.state.model)
        assert len(list(run.timed_beside(run.state.model, [copy.deepcopy(run.state.model)]))) == 1
        assert run.state.model.device == device
    assert seen == [HOST] * 3


def test_nothing_of_a_job_is_on_the_device_while_an_artifact_is_scored(
    encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Job.open(spec_of(encoder, reviews, output=str(tmp_path / "out")), tmp_path).part
    state, seen = run.state, list[torch.device]()
    state.teacher, other = copy.deepcopy(state.model), copy.deepcopy(state.model)

    def ships(model: Any, *_: Any) -> Iterator[None]:
        seen.extend(one.device for one in (model, state.model, state.teacher))
        yield from ()

    monkeypatch.setattr(dataset_run, "ship", ships)
    with second_device() as device:
        for model in (state.model, state.teacher):
            model.to(device)
        for model in (state.model, other):
            list(run.ship(model, "baseline", "onnx", lambda _: ()))
        assert (state.model.device, state.teacher.device, other.device) == (device, device, HOST)
    assert seen == [HOST] * 6


def test_nothing_of_a_job_is_on_the_device_while_lm_eval_asks(
    encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Job.open(spec_of(encoder, reviews, output=str(tmp_path / "out")), tmp_path).part
    state, seen = run.state, list[torch.device]()
    state.teacher = copy.deepcopy(state.model)
    asked = run.data.spec.model_copy(update={"evaluate": JobEvaluate(lm_eval=LmEval(tasks=("arc_easy",)))})
    run.data = replace(run.data, spec=asked)

    def answers(model: Any, *_: Any, **__: Any) -> Iterator[Any]:
        seen.extend(one.device for one in (model, state.model, state.teacher))
        yield Log(message="lm-eval: figures.")
        return ()

    monkeypatch.setattr(harness_job, "place_of", lambda *_: tmp_path)
    monkeypatch.setattr(harness, "installed", lambda: "1.0")
    monkeypatch.setattr(harness_job, "ask", answers)
    with second_device() as device:
        for model in (state.model, state.teacher):
            model.to(device)
        assert len(list(run._ask_tasks("baseline"))) == 1
        assert (state.model.device, state.teacher.device) == (device, device)
    assert seen == [HOST] * 3


@pytest.mark.parametrize(("precision", "rounds"), [("float32", False), ("int8", True), ("bfloat16", True)])
def test_a_worker_with_a_gpu_asks_for_scores_there(
    precision: ArtifactPrecision, rounds: bool, encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Job.open(spec_of(encoder, reviews, output=str(tmp_path / "out")), tmp_path).part
    made = {"stage": "baseline", "precision": precision, "preprocessor": encoder, "max_length": 32}
    asked = {kind: ArtifactRequest(kind=kind, **made) for kind in ("transformers", "gguf-q8-0")}
    assert run.settings.measure_spec(tmp_path, asked["transformers"]).device == "cpu"
    monkeypatch.setattr(shipping, "training_device", lambda: torch.device("cuda"))
    found = {kind: run.settings.measure_spec(tmp_path, one) for kind, one in asked.items()}
    whole, without = found["transformers"], found["gguf-q8-0"]
    assert (whole.device, whole.not_on_card, whole.rounds) == ("cuda", None, rounds)
    assert (without.device, without.not_on_card) == ("cpu", "llama.cpp does not run on GPUs here")
    timed = replace(run.settings, rows={}).measure_spec(tmp_path, asked["transformers"])
    assert (timed.device, timed.not_on_card) == ("cpu", None)


def test_the_double_refuses_what_a_card_refuses() -> None:
    generator = torch.Generator().manual_seed(0)
    with second_device() as device:
        there, here = torch.ones(3, 2).to(device), torch.ones(3, 2)
        assert isinstance(there, DeviceTensor)
        for mixed in (
            lambda: there + here,
            lambda: here.add_(there),
            lambda: torch.tensor(1.0).add_(there.sum()),
            lambda: here[torch.tensor([0]).to(device)],
            lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
            lambda: nn.Embedding(4, 2).to(device)(torch.tensor([1])),
            lambda: torch.rand(3, generator=generator, device=device),
            lambda: there.uniform_(generator=generator),
        ):
            with pytest.raises(Misplaced):
                mixed()
        with pytest.raises((TypeError, RuntimeError), match="numpy"):
            there.numpy()
        # A number of the host, its indices and copies are taken.
        assert (there + torch.tensor(1.0)).tolist() == [[2.0, 2.0]] * 3
        assert there[torch.tensor([0, 1])].shape == (2, 2)
        assert torch.tensor([1.0, 2.0], device=device).sum().item() == 3.0
        moved = there.cpu()
        moved.zero_()
        here.copy_(there * 2)
        assert (there.sum().item(), here.sum().item()) == (6.0, 12.0)
