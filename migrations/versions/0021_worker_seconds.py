"""Jobs count the seconds of their attempts: the wait between two of them is no worker's time."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SQLITE = """CREATE TRIGGER jobs_timed AFTER UPDATE OF worker_seconds ON jobs WHEN NEW.worker_seconds > OLD.worker_seconds BEGIN
    INSERT INTO team_days (team_id, day, seconds) VALUES (
        NEW.team_id,
        strftime('%Y-%m-%d 00:00:00.000000', coalesce(NEW.finished_at, 'now')),
        NEW.worker_seconds - OLD.worker_seconds
    ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
END"""
SQLITE_BEFORE = """CREATE TRIGGER jobs_timed AFTER UPDATE OF state ON jobs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.started_at IS NOT NULL BEGIN
    INSERT INTO team_days (team_id, day, seconds) VALUES (
        NEW.team_id,
        strftime('%Y-%m-%d 00:00:00.000000', NEW.finished_at),
        max(0.0, (julianday(NEW.finished_at) - julianday(NEW.started_at)) * 86400.0)
    ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
END"""
COUNTED = """
CREATE OR REPLACE FUNCTION lathe_jobs_counted() RETURNS trigger AS $$
DECLARE was text := ''; is_now text := ''; team text;
BEGIN
    IF TG_OP <> 'INSERT' THEN was := OLD.state; team := OLD.team_id; END IF;
    IF TG_OP <> 'DELETE' THEN is_now := NEW.state; team := NEW.team_id; END IF;
    UPDATE teams SET
        queued = queued + (is_now = 'queued')::int - (was = 'queued')::int,
        running = running + (is_now = 'running')::int - (was = 'running')::int
    WHERE id = team;
{days}
    RETURN NULL;
END $$ LANGUAGE plpgsql;
"""
DAYS_BEFORE = """
    IF TG_OP = 'UPDATE' AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.started_at IS NOT NULL THEN
        INSERT INTO team_days (team_id, day, seconds) VALUES (
            team,
            date_trunc('day', NEW.finished_at, 'UTC'),
            greatest(0, extract(epoch FROM NEW.finished_at - NEW.started_at))
        ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
    END IF;
"""
# Triggers of one event fire in the order of their names: the team's row is locked before its day.
TIMED = """
CREATE FUNCTION lathe_jobs_timed() RETURNS trigger AS $$
BEGIN
    INSERT INTO team_days (team_id, day, seconds) VALUES (
        NEW.team_id,
        date_trunc('day', coalesce(NEW.finished_at, clock_timestamp()), 'UTC'),
        NEW.worker_seconds - OLD.worker_seconds
    ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER jobs_timed AFTER UPDATE OF worker_seconds ON jobs
    FOR EACH ROW WHEN (NEW.worker_seconds > OLD.worker_seconds) EXECUTE FUNCTION lathe_jobs_timed();
"""
SECONDS = {
    "sqlite": "max(0.0, (julianday(finished_at) - julianday(started_at)) * 86400.0)",
    "postgresql": "greatest(0, extract(epoch FROM finished_at - started_at))",
}


def upgrade() -> None:
    kind = op.get_bind().dialect.name
    # Plain columns: to make a table anew, as batch mode does on SQLite, would lose its triggers.
    op.add_column("jobs", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("worker_seconds", sa.Double(), server_default="0", nullable=False))
    op.execute("UPDATE jobs SET claimed_at = started_at WHERE state = 'running'")
    op.execute(
        f"UPDATE jobs SET worker_seconds = {SECONDS[kind]}"  # noqa: S608
        " WHERE finished_at IS NOT NULL AND started_at IS NOT NULL"
    )
    if kind == "sqlite":
        op.execute("DROP TRIGGER jobs_timed")
        op.execute(SQLITE)
    else:
        op.execute(COUNTED.format(days=""))
        op.execute(TIMED)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER jobs_timed")
        op.execute(SQLITE_BEFORE)
    else:
        op.execute("DROP TRIGGER jobs_timed ON jobs")
        op.execute("DROP FUNCTION lathe_jobs_timed()")
        op.execute(COUNTED.format(days=DAYS_BEFORE))
    op.drop_column("jobs", "worker_seconds")
    op.drop_column("jobs", "claimed_at")
