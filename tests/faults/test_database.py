"""PostgreSQL goes away, comes back, loses a reply or says nothing: a job ends once, and nothing is told twice."""

import os

import pytest

from tests.conftest import wait_for
from tests.faults.conftest import LONG, POSTGRES, SHORT, Stand, is_engine
from tests.support.processes import lives

pytestmark = POSTGRES


def test_a_job_survives_a_killed_and_a_restarted_postgresql(stand: Stand) -> None:
    stand.start_worker()
    job_id = stand.job(SHORT)
    stand.reached(job_id, "started")
    stand.postgres.restart()
    wait_for(lambda: "stage_finished" in stand.told(job_id).events, 120)  # what it ships last is still to come
    stand.postgres.restart(clean=True)
    stand.over(job_id)
    stand.bytes_are_those_of_rows()


def test_a_job_whose_acceptance_got_lost_is_there_once(stand: Stand) -> None:
    stand.database.lose_reply(b"INSERT INTO jobs", b"COMMIT")
    key = os.urandom(8).hex()
    answer = stand.submit(SHORT, key, labels={"lost": key})
    assert stand.database.lost.wait(30)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    again = stand.submit(SHORT, key, labels={"lost": key})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    stand.jobs.append(again.json()["id"])
    listed = stand.http.get(f"/v1/jobs?label=lost:{key}").json()["items"]
    assert [job["id"] for job in listed] == [again.json()["id"]]


def test_lost_replies_to_a_workers_commits_tell_nothing_twice(stand: Stand) -> None:
    proxy = stand.workers_database
    proxy.lose_reply(b"claimed", b"COMMIT")
    stand.start_worker()
    job_id = stand.job(SHORT)
    assert proxy.lost.wait(60)
    proxy.lose_reply(b"stage_finished", b"COMMIT")
    assert proxy.lost.wait(240)
    proxy.lose_reply(b"succeeded", b"COMMIT")
    assert proxy.lost.wait(240)
    stand.over(job_id)
    stand.bytes_are_those_of_rows()


@pytest.mark.parametrize("directions", [("client", "server"), ("server",)], ids=["both", "replies"])
def test_a_worker_without_its_database_has_stopped_when_another_begins(directions: tuple[str, ...], stand: Stand) -> None:
    deaf = stand.start_worker(LATHE_LEASE_SECONDS="12")
    job_id = stand.job(LONG)
    stand.reached(job_id, "started")
    old = [process for process in stand.family(deaf) if is_engine(process)]
    assert old
    stand.workers_database.swallow(*directions)
    stand.reached(job_id, "requeued")  # its lease ran out
    assert not [process for process in old if lives(process)]
    stand.start_worker(LATHE_DATABASE_URL=stand.service.database.url)
    stand.taken(job_id, attempt=2)
    stand.bytes_are_those_of_rows()
