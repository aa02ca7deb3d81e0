"""evaluate.devices with real processes: service, worker, engine, and `lathe device run`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import text

from app.core.settings import Settings
from app.jobs import fencing
from app.store.db import reading, writing
from app.store.models import Artifact, Device, Job, Profile
from app.store.storage import open_storage
from compression.schema.events import Finished
from tests.client.figures import report
from tests.conftest import ROOT, Service, wait_for
from tests.support import examples
from tests.support.examples import send_data, send_model, tiny_splits
from tests.support.rows import claimed, submitted as submitted_row
from workers.device_wait import wait_for_devices
from workers.engine import Engine
from workers.event_relay import EventRelay
from workers.lease import Lease

SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
RECIPE = {"prepare": {"epochs": 1}, "prune": None, "distill": None, "train": {"max_length": 16}, "artifacts": []}


def submitted(http: httpx.Client, folder: Path, **evaluate: Any) -> str:
    model, data = send_model(http, examples.tiny_model(folder / "model")), send_data(http, tiny_splits())
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": RECIPE, "evaluate": {"length": 8, **evaluate}}
    body["targets"] = {"latency_ms": {"value": 1e5, "device": "bench"}}
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def requested(http: httpx.Client, job: str) -> dict[str, Any]:
    """The job's profile, once its worker waits for it."""
    return wait_for(lambda: (http.get(f"/v1/profiles?job={job}").json()["items"] or [None])[0], 300)  # type: ignore[no-any-return]


def ended(http: httpx.Client, job: str) -> dict[str, Any]:
    over = {"succeeded", "failed", "cancelled"}
    return wait_for(lambda: found if (found := http.get(f"/v1/jobs/{job}").json())["state"] in over else None, 300)  # type: ignore[no-any-return]


@contextmanager
def running(service: Service, key: str, folder: Path) -> Iterator[None]:
    """`lathe device run` as a process of its own."""
    env = {**os.environ, "LATHE_HOME": str(folder / "device"), "LATHE_URL": service.url, "LATHE_KEY": key}
    with (folder / "device.log").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "client", "device", "run"], cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@SQLITE
def test_a_worker_that_is_killed_while_it_waits_gets_each_row_once(
    service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    key = http.post("/v1/devices", json={"name": "bench"}).json()["key"]
    service.start_workers("jobs")
    job = submitted(http, tmp_path, devices=["bench"])
    waiting = requested(http, job)
    assert (waiting["state"], waiting["request"]["length"]) == ("queued", 8)
    assert http.get(f"/v1/jobs/{job}").json()["state"] == "running"
    service.kill("jobs")
    service.start_workers("jobs")
    wait_for(lambda: service.log("jobs").count("waiting_for_devices") == 2, 300)
    with running(service, key, tmp_path):
        done = ended(http, job)
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    (profile,) = http.get(f"/v1/profiles?job={job}").json()["items"]
    assert (profile["id"], profile["state"], profile["attempt"]) == (waiting["id"], "done", 1)
    report = http.get(f"/v1/jobs/{job}/report").json()
    (row,) = report["devices"]
    assert (row["device"], row["artifact"], row["profile"]) == ("bench", report["headline"], waiting["id"])
    assert row["figures"] == profile["figures"]
    verdict = report["verdicts"]["latency_ms"]
    assert (verdict["status"], verdict["value"]) == ("met", profile["figures"]["median_ms"])


@SQLITE
def test_a_job_that_is_cancelled_while_it_waits_takes_its_profile_along(
    service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    http.post("/v1/devices", json={"name": "bench"})
    service.start_workers("jobs")
    job = submitted(http, tmp_path, devices=["bench"])
    waiting = requested(http, job)
    assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    assert ended(http, job)["state"] == "cancelled"
    assert http.get(f"/v1/profiles/{waiting['id']}").json()["error"]["detail"] == "The job was cancelled."


def waiting_claim(**evaluate: Any) -> fencing.Claim:
    """A claimed job whose artifact is stored, in a team with the device `bench`."""
    with writing() as session:
        job = submitted_row(session, evaluate=evaluate)
        artifact = Artifact(job_id=job.id, fence=1, name=report().headline, facts={"stage": "distilled"})
        session.add_all([artifact, Device(team_id=job.team_id, name="bench")])
    return claimed()


@SQLITE
def test_a_device_that_does_not_come_is_given_up(settings: Settings) -> None:
    claim = waiting_claim(devices=["bench", "gone"], device_seconds=1)
    rows = wait_for_devices(claim, report(), Lease(claim, settings, lambda: None), lambda: None)
    assert [(row.device, row.artifact, row.state, row.reason) for row in rows] == [
        ("bench", report().headline, "not_measured", "The device did not take it within 1 s."),
        ("gone", report().headline, "not_measured", "The device was removed."),
    ]


@SQLITE
def test_a_database_that_is_away_for_a_moment_does_not_end_the_wait(settings: Settings) -> None:
    claim = waiting_claim(devices=["bench"], device_seconds=1)
    renames = iter(["profiles RENAME TO away", "away RENAME TO profiles"])

    def rename() -> None:  # until it is back, each read raises OperationalError
        if (change := next(renames, None)) is not None:
            with writing() as session:
                session.execute(text(f"ALTER TABLE {change}"))

    (row,) = wait_for_devices(claim, report(), Lease(claim, settings, lambda: None), rename)
    assert (next(renames, None), row.reason) == (None, "The device did not take it within 1 s.")


class Done:
    """An engine that has finished; the job's deadline passes as soon as the wait for devices begins."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def events(self, _tick: float) -> Iterator[Finished]:
        yield Finished(report=report(rows=()))

    def stop(self) -> None:
        self.lease.overdue.set()


@SQLITE
def test_a_deadline_ends_the_wait_and_not_the_job(settings: Settings, tmp_path: Path) -> None:
    claim = waiting_claim(devices=["bench"])
    lease = Lease(claim, settings, lambda: None)
    EventRelay(claim, tmp_path, open_storage(settings), lease, cast("Engine", Done(lease)), settings).run()
    with reading() as session:
        job = session.get_one(Job, claim.job.id)
        (profile,) = session.query(Profile).all()
    assert job.report is not None
    (row,) = job.report["devices"]
    assert (job.state, row["reason"]) == ("succeeded", "The device did not take it before the job's deadline.")
    assert (profile.state, profile.error) == (
        "failed",
        {
            "code": "failed",
            "detail": "The job has ended, and no device had begun it.",
            "remedy": "Request a profile of the artifact by itself.",
        },
    )
