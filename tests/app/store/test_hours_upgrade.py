"""Worker hours across the migration that counts those of attempts, on both databases."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.app.conftest import NewJob, SessionMaker
from tests.support.migrations import migrate

LONG_AGO = "2026-05-01 22:00:00.000000"
END = "state = 'failed', finished_at = '2026-05-02 01:00:00.000000'"


def run(engine: Engine, statement: str, **given: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), given)


def days(engine: Engine) -> list[tuple[str, float]]:
    with engine.begin() as connection:
        found = connection.execute(text("SELECT day, seconds FROM team_days ORDER BY day"))
        return [(str(row.day)[:10], float(row.seconds)) for row in found]


def test_what_was_counted_stays_and_attempts_are_counted_from_then_on(
    engine: Engine, transaction: SessionMaker, new_job: NewJob
) -> None:
    ended, running = new_job(), new_job()
    migrate(engine, "0020", down=True)
    # As the version before wrote: from the first start of a job to its end.
    run(engine, "UPDATE jobs SET state = 'running', fence = 1, started_at = :at", at=LONG_AGO)
    run(engine, f"UPDATE jobs SET {END} WHERE id = :job", job=ended.id)
    before = [("2026-05-02", pytest.approx(3 * 3600))]
    assert days(engine) == before
    migrate(engine, "head")
    assert days(engine) == before
    with transaction() as session:
        rows = {row.id: row for row in session.execute(text("SELECT id, worker_seconds, claimed_at FROM jobs"))}
    assert (rows[ended.id].worker_seconds, rows[running.id].worker_seconds) == (pytest.approx(3 * 3600), 0)
    assert (rows[ended.id].claimed_at, str(rows[running.id].claimed_at)[:16]) == (None, LONG_AGO[:16])
    run(engine, "UPDATE jobs SET worker_seconds = 1800 WHERE id = :job", job=running.id)
    today = days(engine)[-1]
    assert today != before[-1]
    assert today[1] == 1800
    run(engine, f"UPDATE jobs SET {END} WHERE id = :job", job=running.id)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT queued, running FROM teams WHERE id = :id"), {"id": ended.team_id}).one() == (
            0,
            0,
        )
    assert days(engine) == [*before, today]


def test_the_way_back_counts_as_the_version_before(engine: Engine, new_job: NewJob) -> None:
    job = new_job()
    migrate(engine, "0020", down=True)
    run(engine, "UPDATE jobs SET state = 'running', started_at = :at", at=LONG_AGO)
    run(engine, "UPDATE jobs SET state = 'queued'")
    run(engine, "UPDATE jobs SET state = 'running'")
    run(engine, f"UPDATE jobs SET {END} WHERE id = :job", job=job.id)
    assert days(engine) == [("2026-05-02", pytest.approx(3 * 3600))]
    migrate(engine, "head")
