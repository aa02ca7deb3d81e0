"""Jobs side by side: their figures and where their requests differ, for people, pages and programs."""

import csv
import datetime as dt
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.jobs import jobs, stage_results
from client.terminal.compare import Compared, differences, warning
from client.types import Job
from compression.schema.report.report import SplitFacts
from tests.client.conftest import Command, Live, document
from tests.client.figures import report
from tests.client.test_cli import succeed
from tests.support.saying import lacks, says


@pytest.fixture
def three(live: Live, command: Command) -> Iterator[tuple[str, str, str]]:
    """A job that succeeded, one of another recipe that is at work, and one of another model that waits."""
    model, dataset = live.ready()
    other, _ = live.ready()
    made = []
    for base, changes in ((model, ()), (model, ("--set", "prune.ratio=0.4", "--set", "distill=null")), (other, ())):
        ran = command("submit", "--model", base, "--data", dataset, "--recipe", "quick", "--name", "=a | b", *changes, "--json")
        made.append(str(document(ran)["id"]))
    live.end(made[0], succeed)
    claim = live.claim(made[1])
    for row in report().rows[:2]:
        live.do(claim, lambda session, claim, row=row: stage_results.record_stage(session, claim, row, "p", [], []))
    yield made[0], made[1], made[2]
    live.do(claim, jobs.mark_cancelled)
    command("cancel", made[2])


def test_jobs_are_compared(three: tuple[str, str, str], command: Command, tmp_path: Path) -> None:
    one, two, other = three
    ran = command("compare", one, two)
    assert ran.code == 0
    lines = {line.split("│")[1].strip(): line for line in ran.out.splitlines() if line.count("│") > 2}
    says(lines["stage"], "distilled", "quantized")
    says(lines["parameters"], "13.00 M (−35.0 %)", "20.00 M")
    assert "3 of 4" in lines["targets met"]
    says(lines["recipe.prune.ratio"], "0.3", "0.4")
    lacks(ran.out, "models.base", "not of the same thing")
    found = document(command("compare", one, two, other, "--json"))
    first, second, third = found["jobs"]
    assert (first["parameters"], first["bytes"], first["latency_ms"], first["score"]) == (13_000_000, 14_000_000, 6.4, 0.784)
    assert (first["targets_met"], first["targets"], second["targets"]) == (3, 4, None)
    assert (second["stage"], second["bytes"], second["state"]) == ("quantized", 20_000_000, "running")
    assert (third["state"], third["bytes"]) == ("queued", None)
    shown = Job.model_validate(document(command("show", one, "--json")))
    assert shown.finished_at is not None
    assert shown.started_at is not None
    assert first["seconds"] == (shown.finished_at - shown.started_at).total_seconds()
    assert found["differences"]["recipe.prune.ratio"] == [0.3, 0.4, 0.3]
    assert "models.base" in found["differences"]
    assert "not of the same thing: models.base" in command("compare", one, other).out


def test_a_comparison_can_be_taken_along(three: tuple[str, str, str], command: Command, tmp_path: Path) -> None:
    one, two, _ = three
    (head, first, second) = csv.reader(io.StringIO(command("compare", one, two, "--format", "csv").out))
    assert dict(zip(head, first, strict=True))["bytes"] == "14000000"
    assert dict(zip(head, first, strict=True))["name"] == "'=a | b"  # no formula
    assert dict(zip(head, second, strict=True))["recipe.prune.ratio"] == "0.4"
    assert dict(zip(head, second, strict=True))["recipe.distill"] == ""
    out = tmp_path / "both.md"
    assert command("compare", one, two, "--format", "md", "-o", str(out)).code == 0
    lines = out.read_text().splitlines()
    assert lines[0] == f"|  | `{one}` | `{two}` |"
    assert "| name | =a \\| b | =a \\| b |" in lines
    assert command("compare", one, two, "-o", str(out)).code == 2


def test_milliseconds_of_different_processors_are_warned_of() -> None:
    job = Job(id="job_1", name="a", state="succeeded", task="text-classification", created_at=dt.datetime.now(dt.UTC))
    xeon, epyc, unknown = (report(environment=each) for each in ({"processor": "Xeon"}, {"processor": "Epyc"}, {}))
    assert warning([Compared(job, xeon), Compared(job, epyc)], {}).startswith("Timed on different processors")
    assert warning([Compared(job, xeon), Compared(job, xeon), Compared(job, unknown), Compared(job, None)], {}) == ""


def test_of_language_models_the_window_and_the_drawn_texts_must_be_alike() -> None:
    def said(*asked: tuple[dict[str, Any], dict[str, Any]], task: str = "causal-lm") -> str:
        same = {"name": "a", "state": "succeeded", "task": task, "created_at": dt.datetime.now(dt.UTC)}
        jobs = []
        for number, (train, evaluate) in enumerate(asked):
            recipe = {"train": {"max_length": 128, "seed": 0, **train}}
            evaluate = {"window": None, "tokens": 4096, **evaluate}
            jobs.append(Compared(Job(id=f"job_{number}", recipe=recipe, evaluate=evaluate, **same), None))
        return warning(jobs, differences(jobs)).rpartition(": ")[2]

    assert said(({}, {}), ({"max_length": 512}, {})) == "recipe.train.max_length."
    assert said(({}, {}), ({"seed": 1}, {"tokens": 512})) == "recipe.train.seed, evaluate.tokens."
    assert said(({}, {}), ({}, {"window": 512})) == "evaluate.window."
    assert said(({}, {}), ({}, {"devices": ["pi"], "device_seconds": 60})) == ""  # the figures are the worker's
    assert said(({}, {}), ({"max_length": 512}, {"window": 128})) == ""
    assert said(({}, {}), ({"max_length": 512, "seed": 1}, {}), task="text-classification") == ""


def test_rows_that_were_drawn_from_train_by_other_seeds_are_warned_of() -> None:
    jobs = [
        Job(
            id=f"job_{seed}", name="a", state="succeeded", task="text-classification", created_at=dt.datetime.now(dt.UTC), **own
        )
        for seed, own in ((seed, {"recipe": {"train": {"seed": seed}}}) for seed in (0, 1))
    ]
    for carved in (True, False):
        found = report(splits={"test": SplitFacts(rows=1000, carved_from_train=carved, labels={})})
        both = [Compared(job, found) for job in jobs]
        assert ("recipe.train.seed" in warning(both, differences(both))) is carved


def test_there_must_be_two_jobs_that_exist(live: Live, job: str, command: Command) -> None:
    assert command("compare", job).code == 2
    assert command("compare", job, job).code == 2
    ran = command("compare", job, "job_none", "--json")
    assert ran.code == 6
    assert document(ran)["error"]["code"] == "not_found"
