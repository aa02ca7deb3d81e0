"""A pause by the engine's standard input: it saves, says so and ends; new attempts go on and ship the same bytes."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from compression.engine.commands.run import PAUSED, job
from compression.schema.events import Event, Finished, Log, Paused, Progress, StageFinished, StageStarted, TrainingSaved
from compression.system.process import PauseRequests
from compression.system.sealed_folder import digest
from compression.training.save import FOLDER
from tests.support.engine_jobs import RECIPE, events, fork, write_spec
from tests.support.warm import Forked

LONG: dict[str, Any] = {**RECIPE, "quantize": None, "distill": None, "prepare": {"epochs": 2, "rate": 3e-3}}
LONG["prune"] = {**RECIPE["prune"], "recovery": {"epochs": 20, "rate": 1e-3}}
"""Two trainings, the second long enough to be paused in its midst."""


@dataclass
class Attempt:
    """An engine as a supervisor runs it: events on a pipe of their own, requests on standard input."""

    engine: Forked
    lines: Iterator[str]
    output: Path
    kept: Path

    def ask_for_pause(self) -> None:
        self.engine.stdin.write(b"pause\n")

    def events(self) -> Iterator[Event]:
        """Yield events; keep each checkpoint and save where the next attempt finds them."""
        for event in events(self.lines):
            if isinstance(event, TrainingSaved):
                self.keep(event.folder, FOLDER, event.files)
                shutil.rmtree(self.output / "checkpoints" / event.folder)
            if isinstance(event, StageFinished):
                self.keep(event.row.stage, event.row.stage, event.checkpoint)
            yield event

    def keep(self, folder: str, name: str, files: Any) -> None:
        place = self.output / "checkpoints" / folder
        for file in files:
            assert digest(place / file.path) == file.sha256
        shutil.rmtree(self.kept / name, ignore_errors=True)
        shutil.copytree(place, self.kept / name)


@contextmanager
def attempt(place: Path, kept: Path, spec: Path) -> Iterator[Attempt]:
    kept.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    engine = fork(spec, "--events-fd", str(writer), "--die-with-parent", kept=[writer])
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="utf-8") as pipe:
            yield Attempt(engine, pipe, place / "out", kept)
    finally:
        engine.stdin.close()
        engine.send_signal(signal.SIGKILL)
        engine.wait()


def weights(output: Path) -> dict[str, str]:
    """Digest the weights of all artifacts; cards tell latencies, which differ."""
    names = ("model.onnx", "model.safetensors")
    return {str(one.relative_to(output)): digest(one) for one in sorted((output / "artifacts").rglob("*")) if one.name in names}


def test_paused_twice_a_job_ships_the_same_bytes(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    kept = tmp_path / "kept"

    def spec(name: str, **changes: Any) -> Path:
        return write_spec(tmp_path / name, encoder, reviews, recipe=LONG, **changes)

    whole = list(job(spec("whole")))

    with attempt(tmp_path / "first", kept, spec("first")) as first:
        first.ask_for_pause()  # before it trains at all: it stops after the first step
        seen = list(first.events())
        assert first.engine.wait() == PAUSED == 3
    *_, saved, paused = seen
    assert isinstance(paused, Paused)
    assert isinstance(saved, TrainingSaved)
    assert (saved.stage, saved.phase, saved.step) == ("baseline", "tune", 1)

    with attempt(tmp_path / "second", kept, spec("second", resume=str(kept), save_seconds=0.2)) as second:
        seen = []
        for event in second.events():
            seen.append(event)
            if isinstance(event, TrainingSaved) and event.phase == "recover" and event.step < event.total // 2:
                second.ask_for_pause()
        assert second.engine.wait() == PAUSED
    assert [event.message for event in seen if isinstance(event, Log)] == [f"Training goes on from step 1 of {saved.total}."]
    last = [event for event in seen if isinstance(event, TrainingSaved)][-1]
    assert (last.stage, last.phase) == ("pruned", "recover")
    assert last.step < last.total
    assert not list((tmp_path / "second" / "out" / "checkpoints").glob("*training*"))

    seen = list(job(spec("third", resume=str(kept))))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed] == ["baseline"]
    assert f"Training goes on from step {last.step} of {last.total}." in [e.message for e in seen if isinstance(e, Log)]
    done = seen[-1]
    assert [row.score for row in done.report.rows] == [row.score for row in whole[-1].report.rows]
    assert weights(tmp_path / "third" / "out") == weights(tmp_path / "whole" / "out")
    assert len(weights(tmp_path / "third" / "out")) == 3


def test_a_job_that_crashed_while_it_shipped_is_not_trained_again(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    kept = tmp_path / "kept"
    recipe = {**RECIPE, "quantize": None, "prune": None, "distill": None}
    spec = write_spec(tmp_path / "first", encoder, reviews, recipe=recipe, save_seconds=0)
    with attempt(tmp_path / "first", kept, spec) as one:
        for event in one.events():
            if isinstance(event, Progress) and event.phase == "export and measure":
                one.engine.send_signal(signal.SIGKILL)
                break
    seen = list(job(write_spec(tmp_path / "second", encoder, reviews, recipe=recipe, resume=str(kept))))
    assert isinstance(seen[-1], Finished)
    assert [event.message for event in seen if isinstance(event, Log)] == ["Training had ended; its result is taken up."]
    assert not [event for event in seen if isinstance(event, Progress) and event.loss is not None]
    assert digest(tmp_path / "second" / "out" / "checkpoints" / "baseline" / "model.safetensors")


def test_an_unusable_save_is_told_and_costs_time_only(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    recipe = {**RECIPE, "quantize": None, "prune": None, "distill": None, "prepare": {"epochs": 1, "rate": 3e-3}}
    (tmp_path / "kept" / FOLDER).mkdir(parents=True)
    (tmp_path / "kept" / FOLDER / "state.json").write_text("nonsense")
    seen = list(job(write_spec(tmp_path / "job", encoder, reviews, recipe=recipe, resume=str(tmp_path / "kept"))))
    assert [event.level for event in seen if isinstance(event, Log) and "not used" in event.message] == ["warning"]
    assert isinstance(seen[-1], Finished)


@pytest.fixture
def pipe() -> Iterator[tuple[int, BinaryIO]]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as end:
        yield reader, end
    os.close(reader)


def test_a_request_may_come_in_pieces_and_is_remembered(pipe: tuple[int, BinaryIO]) -> None:
    reader, writer = pipe
    asked = PauseRequests(reader)
    said = []
    for piece in (b"pau", b"se", b"d\npause", b"\nmore"):
        said.append(asked())
        writer.write(piece)
    assert said == [False] * 4
    assert asked()
    writer.close()
    assert asked()


def test_a_closed_pipe_and_what_is_no_pipe_ask_for_nothing(pipe: tuple[int, BinaryIO], tmp_path: Path) -> None:
    reader, writer = pipe
    asked = PauseRequests(reader)
    writer.close()
    assert not asked()
    assert not asked()
    (tmp_path / "file").write_text("pause\n")
    with (tmp_path / "file").open("rb") as file, Path(os.devnull).open("rb") as nothing:
        assert not PauseRequests(file.fileno())()
        assert not PauseRequests(nothing.fileno())()
        closed = file.fileno()
    assert not PauseRequests(closed)()
