"""Figures are taken in a process of their own, by turns, and under the host's lock."""

import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compression.engine.shipping import measure_artifact
from compression.evaluation import measure as measuring, turns
from compression.evaluation.measure import Measured, MeasureSpec, measure, peak_memory, read_rows, time_both
from compression.evaluation.predict import predict
from compression.evaluation.runtimes.runner import open_artifact
from compression.evaluation.turns import settle
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import Floats as Logits, RowScorer, Runner, Scored
from compression.modalities.text.inputs import Batch, full_batch
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.schema.artifact_formats import Kind
from compression.schema.prediction_request import AnswerSpec, Question
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Latency, NotMeasured, Score
from compression.system.child_process import ChildFailed, Step, child_lines
from compression.system.host_lock import LOCK_VARIABLE, WAIT_VARIABLE, host_lock
from compression.system.progress import Step as Tick, run_silently
from tests.support.tiny_shipment import LABELS, Shipment

pytestmark = pytest.mark.fresh


def spec(shipment: Shipment, **changes: object) -> MeasureSpec:
    folder, baseline = shipment.folder(shipment.int8), shipment.folder(shipment.baseline)
    own = {"kind": "onnx", "task": "text-classification", "labels": LABELS, "evaluate": Evaluate(length=16)}
    places = {"folder": str(folder), "baseline": str(baseline), "test_rows": str(shipment.output / "test.jsonl")}
    return MeasureSpec(**own, **places).model_copy(update=changes)


@dataclass
class Noted:
    """A real runner that notes when it was asked."""

    inner: Runner
    order: list[str]
    label: str
    name: str = "noted"
    batches: list[Batch] = field(default_factory=list)

    def logits(self, batch: Batch) -> Logits:
        self.order.append(self.label)
        self.batches.append(batch)
        return self.inner.logits(batch)


@pytest.fixture(scope="module")
def fresh(tiny_shipment: Shipment) -> tuple[Measured, int]:
    """What a fresh child tells, and the bytes that its parent held beside all else."""
    ballast = np.ones(400_000_000 // 8)
    found = Measured.model_validate_json([*child_lines("measure", spec(tiny_shipment), timeout=120)][-1])
    assert peak_memory() > ballast.nbytes
    return found, ballast.nbytes


def test_a_fresh_child_tells_both_sides_of_the_latency(fresh: tuple[Measured, int], tiny_shipment: Shipment) -> None:
    latency, score = fresh[0].latency, fresh[0].score
    assert (latency.batch, latency.length, latency.threads) == (1, 16, 1)
    assert latency.runs >= turns.FEWEST_QUIET  # of at least 40, those that nothing disturbed
    assert 0 < latency.median_ms <= latency.p95_ms
    assert 0 < latency.baseline_median_ms <= latency.baseline_p95_ms
    assert latency.median_ms != latency.baseline_median_ms
    assert "onnxruntime" in latency.runtime
    assert isinstance(score, Score)
    assert score == tiny_shipment.int8.score


def test_samples_are_answered_as_the_score_s_rows_are(tiny_shipment: Shipment) -> None:
    found = measure(spec(tiny_shipment, samples=(7, 2), seconds=0.1))
    for number, said in zip((7, 2), found.answers, strict=True):
        asked = AnswerSpec(
            task="text-classification",
            labels=LABELS,
            memory_bytes=1 << 40,
            original=str(tiny_shipment.folder(tiny_shipment.int8)),
            compressed=str(tiny_shipment.folder(tiny_shipment.int8)),
            question=Question(text=tiny_shipment.rows[number][0]),
        )
        other = predict(asked, tiny_shipment.output).compressed
        assert (said.text, said.probability) == (other.label, pytest.approx(other.scores[said.text], abs=1e-4))


def test_measuring_onnx_loads_no_torch(tiny_shipment: Shipment, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec(tiny_shipment).model_dump_json())
    program = f"""
import sys
from compression.evaluation.measure import MeasureSpec, measure
measure(MeasureSpec.model_validate_json(open({str(path)!r}).read()))
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("seconds", "uncounted"), [(0.0, 1), (60.0, 4)])
def test_the_two_sides_run_by_turns_on_the_same_batch(
    tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch, seconds: float, uncounted: int
) -> None:
    monkeypatch.setattr(turns, "UNCOUNTED_SECONDS", seconds)
    monkeypatch.setattr(turns, "FEWEST_QUIET", math.inf)  # every turn counts
    order: list[str] = []
    example = full_batch(2, 8, 40)
    folders = {"after": tiny_shipment.folder(tiny_shipment.int8), "before": tiny_shipment.folder(tiny_shipment.baseline)}
    sides = [Noted(open_artifact("onnx", folder, threads=1), order, label) for label, folder in folders.items()]
    latency, saved = time_both(sides[0], sides[1], example, threads=1)
    assert saved < 1
    low, high = latency.speed_up_interval
    assert low <= latency.baseline_median_ms / latency.median_ms <= high
    assert order.count("after") == order.count("before") >= latency.runs
    one = uncounted + 1
    timed = order[-2 * one * latency.runs :]
    assert timed[: 4 * one] == ["after"] * one + ["before"] * 2 * one + ["after"] * one
    assert all({*timed[turn : turn + 2 * one]} == {"after", "before"} for turn in range(0, len(timed), 2 * one))
    assert all(batch is example for side in sides for batch in side.batches)


def test_passes_settle_while_they_are_short_and_not_at_all_where_they_are_long(
    tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(turns, "UNCOUNTED_SECONDS", 0.05)
    monkeypatch.setattr(turns, "FEWEST_QUIET", math.inf)  # every turn counts
    with monkeypatch.context() as patch:
        patch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: 0.03 * len(asked)))
        settle(lambda: asked.append(0))
    assert len(asked) == 2
    order: list[str] = []
    runner = Noted(open_artifact("onnx", tiny_shipment.folder(tiny_shipment.int8), threads=1), order, "long")
    monkeypatch.setattr(measuring, "LONG_SECONDS", 0.0)
    latency, _ = time_both(runner, None, full_batch(1, 8, 40), threads=1)
    assert len(order) == 1 + measuring.WARM_UP_RUNS + latency.runs


def test_without_a_baseline_an_artifact_is_its_own(tiny_shipment: Shipment) -> None:
    runner = open_artifact("onnx", tiny_shipment.folder(tiny_shipment.int8), threads=1)
    latency, saved = time_both(runner, None, full_batch(1, 8, 40), threads=1)
    assert latency.median_ms == latency.baseline_median_ms
    assert (saved, latency.speed_up_interval) == (0, None)


class Contrary:
    """Answers 1 alone and 0 in company: what per-tensor activations can do."""

    name = "contrary"

    def logits(self, batch: Batch) -> Logits:
        rows = len(batch.input_ids)
        return np.tile(np.array([0, 1] if rows == 1 else [1, 0], np.float32), (rows, 1))


def test_the_score_tells_of_answers_that_change_with_the_batch(tiny_shipment: Shipment, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": "good", "label": label}) + "\n" for label in [1, 1, 1, 0]))
    folder = tiny_shipment.folder(tiny_shipment.int8)
    scorer = TextClassScorer("accuracy", 2, 1)
    score = scorer.open_split(Contrary(), scorer.reader(folder), read_rows(rows)).answer(lambda _: None).score
    assert (score.value, score.value_at_batch_32, score.rows_changed_by_batching) == (0.75, 0.25, 4)
    assert (score.chance, score.standard_error) == (0.75, pytest.approx((0.75 * 0.25 / 4) ** 0.5))


def test_memory_is_that_of_serving_and_not_the_parents(fresh: tuple[Measured, int]) -> None:
    served, held = fresh
    assert 10_000_000 < served.peak_memory_bytes < held


def test_two_jobs_never_time_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    entered = threading.Event()

    def wait_for_it() -> None:
        with host_lock():
            entered.set()

    with host_lock():
        other = threading.Thread(target=wait_for_it)
        other.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    other.join()


def test_a_turn_waited_for_in_vain_is_told(tiny_shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.setenv(WAIT_VARIABLE, "0.2")
    alone = measure(spec(tiny_shipment, seconds=0.1)).latency
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        disturbed = measure(spec(tiny_shipment, seconds=0.1)).latency
    assert (alone.exclusive, disturbed.exclusive) == (True, False)


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "from compression.system.host_lock import host_lock\nimport time\n"
        "with host_lock():\n print('in', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, LOCK_VARIABLE: str(path)}
    holder = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"in\n"
    with path.open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    holder.kill()
    holder.wait()
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_child_that_fails_says_why_and_one_that_hangs_is_ended(tiny_shipment: Shipment, tmp_path: Path) -> None:
    empty = shutil.copytree(tiny_shipment.folder(tiny_shipment.int8), tmp_path / "empty")
    (empty / "model.onnx").unlink()
    with pytest.raises(ChildFailed, match=r"model\.onnx"):
        list(child_lines("measure", spec(tiny_shipment, folder=str(empty)), timeout=60))
    started = time.monotonic()
    with pytest.raises(ChildFailed, match="longer"):
        list(child_lines("measure", spec(tiny_shipment), timeout=0.1))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_a_child_tells_how_far_the_score_is(kind: Kind, tiny_shipment: Shipment) -> None:
    made = tiny_shipment.checkpoint if kind == "transformers" else tiny_shipment.int8
    measuring = measure_artifact(spec(tiny_shipment, kind=kind, folder=str(tiny_shipment.folder(made)), seconds=0.1))
    told = list[Tick]()
    while True:
        try:
            told.append(next(measuring))
        except StopIteration as end:
            found: Measured = end.value
            break
    assert found.score == made.score
    rows = len(tiny_shipment.rows)
    assert {tick.total for tick in told} == {2 * rows}  # each alone and in company
    assert ([tick.step for tick in told], told[-1].step) == (sorted({tick.step for tick in told}), 2 * rows)


def test_what_was_timed_outlives_a_score_that_was_not_to_be_had(tiny_shipment: Shipment, tmp_path: Path) -> None:
    rows = tmp_path / "test.jsonl"
    rows.write_text("{no JSON\n")
    found = run_silently(measure_artifact(spec(tiny_shipment, test_rows=str(rows), seconds=0.1)))
    assert isinstance(found.latency, Latency)
    assert isinstance(found.peak_memory_bytes, int)
    assert "JSONDecodeError" in found.score.not_measured


def test_a_score_that_is_not_to_be_had_costs_nothing_else(
    tiny_shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = tiny_shipment.int8
    score = NotMeasured(not_measured="not yet")
    known = Measured(latency=timed.latency, score=score, peak_memory_bytes=timed.peak_memory_bytes)
    says(f"echo '{known.model_dump_json()}'\nexit 3", tmp_path, monkeypatch)
    found = run_silently(measure_artifact(spec(tiny_shipment)))
    assert (found.latency, found.peak_memory_bytes) == (timed.latency, timed.peak_memory_bytes)
    assert "ended with 3" in found.score.not_measured


def says(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script take the place of Python, and so of the measuring process."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


def test_validation_outlives_a_test_split_that_failed(
    tiny_shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "validation.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": 0}) + "\n" for text, _ in tiny_shipment.rows[:7]))
    told = list[Step | Measured]()
    asked = spec(tiny_shipment, validation_rows=str(rows), seconds=0.1, seed=3)
    found = measure(asked, told.append)
    folder = tiny_shipment.folder(tiny_shipment.int8)
    runner, scorer = open_artifact("onnx", folder, threads=1), scorer_of("text-classification", Evaluate(), asked.labels)
    alone = scorer.open_split(runner, scorer.reader(folder), read_rows(rows), seed=3).answer(lambda _: None)
    score = alone.score.model_copy(update={"runtime": runner.name, "device": "cpu"})
    assert (found.validation, found.draws.validation) == (score, alone.draws)
    assert score.rows == 7
    assert found.score.metrics == tiny_shipment.int8.score.metrics
    assert (found.draws.test.rows, found.draws.test.seed) == (len(tiny_shipment.rows), 3)
    steps = [one for one in told if isinstance(one, Step)]
    assert {one.total for one in steps} == {2 * (7 + len(tiny_shipment.rows))}
    assert [one.done for one in steps] == list(range(1, 8)) + [one.done for one in steps[7:]]
    between, scored = [one for one in told if isinstance(one, Measured)][-2:]
    assert scored == found.model_copy(update={"operators": None}), "what counting operators costs cannot lose a score"
    assert found.operators is not None
    assert between.validation == score
    assert isinstance(between.score, NotMeasured)
    # The process ends after it has told of validation.
    line = tmp_path / "line"
    line.write_text(between.model_dump_json() + "\n")
    says(f"cat {line}\nexit 3", tmp_path, monkeypatch)
    late = run_silently(measure_artifact(asked))
    assert (late.validation, late.draws.validation, late.draws.test) == (score, alone.draws, None)
    assert "ended with 3" in late.score.not_measured


def test_answers_that_are_no_numbers_leave_no_score_of_their_split(
    tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RowScorer._scored

    def spoiled(*given: Any) -> Scored:
        found = plain(*given)
        return replace(found, score=found.score.model_copy(update={"value_at_batch_32": math.nan}))

    monkeypatch.setattr(RowScorer, "_scored", spoiled)
    found = measure(spec(tiny_shipment, seconds=0.1))
    assert found.score == NotMeasured(not_measured="Answers of this artifact to test rows are no finite numbers.")
    assert found.draws.test is None
    assert isinstance(Measured.model_validate_json(found.model_dump_json()).latency, Latency)


def test_a_measuring_child_dies_with_its_parent(tiny_shipment: Shipment, tmp_path: Path) -> None:
    """The child waits for the host's lock, which we hold; then its parent is killed."""
    lock = tmp_path / "lock"
    program = f"""
from compression.system.child_process import child_lines
from compression.evaluation.measure import MeasureSpec
list(child_lines("measure", MeasureSpec.model_validate_json({spec(tiny_shipment).model_dump_json()!r}), timeout=60))
"""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, LOCK_VARIABLE: str(lock)})
        children = _until(lambda: _waiting_for(lock))
        parent.kill()
        parent.wait()
        _until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))


def _waiting_for(lock: Path) -> list[int]:
    """Find the processes that hold the lock's file open, ourselves aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and any(link.readlink() == lock for link in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _until(ask_again: Callable[[], Any], seconds: float = 300.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := ask_again():
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
