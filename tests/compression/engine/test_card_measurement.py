"""Timing on the GPU at a job's end: of which models, and what becomes of it where it fails or there is no GPU."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from compression.engine import card_measurement
from compression.engine.card_measurement import measure_on_card
from compression.engine.job import Job
from compression.evaluation.on_card.measure import CardSpec
from compression.schema.events import Log, Progress
from compression.schema.report.card_rows import CardReport, CardRow, CardState
from compression.schema.report.report import File
from compression.system.child_process import ChildFailed, Step
from compression.system.progress import Returning
from tests.support.cards import ARTIFACT
from tests.support.engine_jobs import spec_of
from tests.support.second_device import DEVICE, second_device
from tests.support.unmeasured import unmeasured

FOUND = CardReport(
    device="A card",
    before=CardState(sm_mhz=1980),
    after=CardState(sm_mhz=1980),
    rows=(CardRow(stage="baseline", runtime="vLLM", not_measured="vLLM is not installed."),),
)


@pytest.fixture
def job(encoder: Path, reviews: Path, tmp_path: Path) -> Job:
    opened = Job.open(spec_of(encoder, reviews, output=str(tmp_path / "out")), tmp_path)
    opened.rows = [unmeasured()]
    return opened


def measured(job: Job) -> tuple[CardReport | None, list[Any]]:
    events = list(each := Returning(measure_on_card(job)))
    return each.result, events


def test_on_a_cpu_nothing_is_timed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_measurement, "child_lines", None)
    assert measured(job) == (None, [])


def test_the_headline_and_the_original_are_timed_once_their_device_is_free(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(card_measurement, "training_device", lambda: torch.device("cuda"))
    asked: list[CardSpec] = []
    onnx = tmp_path / "out/artifacts" / job.rows[0].artifact
    onnx.mkdir(parents=True)
    (onnx / "model.onnx").touch()

    def answers(command: str, spec: CardSpec, **_: Any) -> Iterator[str]:
        assert command == "measure-card"
        asked.append(spec)
        assert job.part is not None
        assert job.part.state.model.device.type == "cpu"  # type: ignore[attr-defined]
        yield Step(done=1, total=2).model_dump_json()
        yield FOUND.model_dump_json()

    monkeypatch.setattr(card_measurement, "child_lines", answers)
    with second_device():
        job.part.state.model.to(DEVICE)  # type: ignore[union-attr]
        found, events = measured(job)
    assert found == FOUND
    (step,) = [event for event in events if isinstance(event, Progress)]
    assert (step.phase, step.step, step.total) == (card_measurement.PHASE, 1, 2)
    ((model,),) = [spec.models for spec in asked]
    assert (model.stage, model.onnx) == ("baseline", str(onnx))
    assert model.folder.endswith("checkpoints/baseline")
    job.card = found
    assert "1980 MHz" in found.conditions


def test_a_prompt_leaves_positions_for_further_tokens_and_a_file_that_is_gone_is_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_measurement, "training_device", lambda: torch.device("cuda"))
    assert job.part is not None
    asked: list[CardSpec] = []
    checkpoint = job.folder_of("baseline") / "baseline"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "config.json").write_text('{"max_position_embeddings": 40}')
    file = File(path="model.onnx", size=1, sha256="0" * 64)
    job.artifacts = [ARTIFACT.model_copy(update={"name": job.rows[0].artifact, "files": (file,)})]

    def answers(_: str, spec: CardSpec, *, timeout: float, silence: float) -> Iterator[str]:
        assert silence < timeout < math.inf
        asked.append(spec)
        yield FOUND.model_dump_json()

    monkeypatch.setattr(card_measurement, "child_lines", answers)
    measured(job)
    job.part.data = replace(job.part.data, task=cast("Any", SimpleNamespace(name="causal-lm")))
    measured(job)
    assert [spec.length for spec in asked] == [16, 8]
    assert asked[0].models[0].onnx is None
    assert "an earlier attempt" in asked[0].models[0].lacks


@pytest.mark.parametrize("told", [[], [FOUND]])
def test_a_process_that_fails_costs_what_it_did_not_tell(
    told: list[CardReport], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_measurement, "training_device", lambda: torch.device("cuda"))

    def fails(*_: Any, **__: Any) -> Iterator[str]:
        yield from (report.model_dump_json() for report in told)
        raise ChildFailed("measure-card ended with 1: no driver")

    monkeypatch.setattr(card_measurement, "child_lines", fails)
    found, events = measured(job)
    assert found == (told[0] if told else None)
    last = events[-1]
    assert isinstance(last, Log)
    assert last.level == "warning"
    assert last.message.startswith("Not everything" if told else "Nothing")
    assert "no driver" in last.message
