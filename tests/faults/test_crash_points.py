"""Death at every named point: the job ends once, succeeded, no stage is done twice, and no byte is left over."""

import os

import httpx
import pytest
from sqlalchemy import text

from app.core.crash_points import POINTS
from tests.conftest import wait_for
from tests.faults.conftest import LONG, PATIENCE, POSTGRES, SHORT, SQLITE, Stand
from tests.support.examples import TINY_RECIPE

OF_API = ("api_before_commit", "api_after_commit")
OF_WORKER = tuple(point for point in POINTS if point.startswith("worker_"))
IN_THE_MIDDLE = ("worker_after_claim", "worker_artifact_stored", "worker_stage_recorded")
"""The points at which an outcome is still far."""


def test_every_point_belongs_to_a_process() -> None:
    of_keeper = ("keeper_after_reap", "keeper_before_purge_recorded")
    assert set(POINTS) == {*OF_API, *OF_WORKER, *of_keeper}


@pytest.mark.parametrize("point", OF_API)
def test_a_sender_who_asks_again_after_the_api_died_has_one_job(point: str, stand: Stand) -> None:
    settings, (mark,) = stand.crash_at(point)
    stand.restart_api(**settings)
    key = os.urandom(8).hex()
    with pytest.raises(httpx.TransportError):
        stand.submit(SHORT, key, labels={"sent": key})
    assert mark.exists()
    stand.restart_api()
    again = stand.submit(SHORT, key, labels={"sent": key})
    assert again.status_code == 202
    assert ("Idempotency-Replayed" in again.headers) == (point == "api_after_commit")
    stand.jobs.append(again.json()["id"])
    listed = stand.http.get(f"/v1/jobs?label=sent:{key}").json()["items"]
    assert [job["id"] for job in listed] == [again.json()["id"]]
    assert [event["type"] for event in stand.events(again.json()["id"])] == ["queued"]


@POSTGRES
def test_a_worker_that_dies_at_every_point_in_turn(stand: Stand) -> None:
    settings, marks = stand.crash_at(*OF_WORKER)
    stand.start_worker(**settings, LATHE_SAVE_SECONDS="0.05")
    two_sizes = {**TINY_RECIPE["prune"], "search": "solver", "points": 2, "axes": ["ffn"]}
    done = stand.over(stand.job({"prune": two_sizes, "artifacts": []}))
    assert [mark.name for mark in marks if not mark.exists()] == []
    # One death comes after the outcome was written, and costs nothing.
    assert done["attempt"] >= len(OF_WORKER)
    assert [row["stage"] for row in done["rows"]] == ["baseline", "quantized", "pruned", "distilled", "point2"]
    stand.nothing_runs()
    stand.bytes_are_those_of_rows()


@SQLITE
def test_a_worker_that_dies_in_the_middle_on_sqlite(stand: Stand) -> None:
    settings, marks = stand.crash_at(*IN_THE_MIDDLE)
    stand.start_worker(**settings)
    job_id = stand.job(SHORT)
    wait_for(lambda: all(mark.exists() for mark in marks), PATIENCE)
    done = stand.over(job_id)
    assert done["attempt"] > len(marks)
    assert [row["stage"] for row in done["rows"]] == ["baseline"]
    stand.nothing_runs()
    stand.bytes_are_those_of_rows()


def test_a_keeper_that_dies_leaves_its_work_to_the_next(stand: Stand) -> None:
    settings, (reaped, purged) = stand.crash_at("keeper_after_reap", "keeper_before_purge_recorded")
    stand.service.kill("keeper")
    with stand.with_settings(**settings):
        stand.service.start_workers("keeper")
    name = stand.start_worker()
    job_id = stand.job(LONG)
    stand.reached(job_id, "started")
    stand.service.kill(name)  # all of it: only the keeper can find out
    stand.wait_end("keeper")
    assert reaped.exists()
    with stand.engine.begin() as connection:
        connection.execute(text("DELETE FROM leaders"))  # or the next one waits, as the first did, until its term is over
    with stand.with_settings(**settings):
        stand.service.start_workers("keeper")
    stand.start_worker()
    stand.taken(job_id, attempt=2)
    assert stand.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    stand.wait_end("keeper")
    assert purged.exists()
    stand.service.start_workers("keeper")
    wait_for(lambda: not [key for key in stand.stored() if job_id in key])
    stand.bytes_are_those_of_rows()
