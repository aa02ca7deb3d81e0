"""A short run of `make chaos`, and that its audit would not overlook what it is there to find."""

import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.chaos import rampage as running
from tests.chaos.audit import CHECKS, Evidence, audit
from tests.chaos.house import House, opened
from tests.chaos.rampage import Result, rampage, table
from tests.chaos.slow_clients import SOCKETS

JOBS, KILLS, SEED = 5, 7, 111345
"""This seed draws jobs of each kind, mostly cheap ones, one of them hasty and one sent twice; and seven kinds of victims."""
Run = tuple[House, Result, Evidence]


@pytest.fixture(scope="module")
def run(apart: Path) -> Iterator[Run]:
    with (
        pytest.MonkeyPatch.context() as patched,
        opened(apart / "chaos", 2, random.Random(f"{SEED}-house"), keep=False) as house,
    ):
        patched.setattr(running, "FIRST_GUESS", 15.0)  # forked engines take a quarter of an operator's
        yield house, *rampage(house, jobs=JOBS, kills=KILLS, seed=SEED, limit=1800)


def test_every_job_keeps_its_promise_while_everything_is_killed(run: Run) -> None:
    house, result, evidence = run
    assert result.clean, table(result, house.root)
    assert result.kills.total() == KILLS
    assert len(evidence.jobs) == JOBS
    assert result.held_back, "no job met a quota"
    assert result.full, "no upload met a quota"
    assert result.closed > SOCKETS, "no slow client was cut off"


def test_the_audit_sees_what_is_wrong(run: Run) -> None:
    house, result, evidence = run
    assert result.clean
    good = next(order for order in evidence.orders if order.outcome == "succeeded")
    key = next(key for key, _, _ in evidence.named if good.job in key)
    with psycopg.connect(evidence.database) as sql:
        sql.execute("SET session_replication_role = replica")  # past the triggers, as only a bug of ours could get
        sql.execute(
            "INSERT INTO events (job_id, seq, type, data, at) SELECT job_id, seq + 1000, type, data, at"
            " FROM events WHERE job_id = %s AND type = 'stage_finished'",
            [good.job],
        )
        sql.execute("UPDATE jobs SET state = 'failed' WHERE id = %s", [good.job])
        other = next(order.job for order in evidence.orders if order.outcome == "succeeded" and order is not good)
        sql.execute("DELETE FROM metrics WHERE job_id = %s", [other])
        sql.execute("UPDATE teams SET queued = 7, quotas = '{\"bytes_stored\": 1}' WHERE id IN (SELECT team_id FROM models)")
        sql.execute(
            "INSERT INTO reservations (id, team_id, bytes, expires_at)"
            " SELECT 'rsv_lost', id, 1, now() + interval '1 hour' FROM teams LIMIT 1"
        )
    with (evidence.storage / key).open("ab") as stored:
        stored.write(b"x")
    with (evidence.home / "api.log").open("ab") as log:
        log.write(b"socket.accept() out of system resource\n")
    (evidence.storage / "jobs" / "stray").write_bytes(b"x")
    (evidence.home / "scratch" / "job_left-1").mkdir()
    twin = replace(good, ids={good.job, "job_lost"})
    shell = f"HOME={house.root} sleep 600 >/dev/null 2>&1 & echo $!"
    orphan = int(subprocess.run(["sh", "-c", shell], capture_output=True, check=True, text=True).stdout)
    try:
        found = audit(replace(evidence, orders=[twin, *evidence.orders]))
    finally:
        subprocess.run(["kill", str(orphan)], check=True)
    assert [check.__name__ for check in CHECKS if not found[check.__name__]] == []
