"""Teams have weights, limits, and counts of their jobs and hours; uploads know their size; bytes under way are reserved."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
QUEUED = sa.text("state = 'queued'")
COUNT = (
    "UPDATE teams SET queued = (SELECT count(*) FROM jobs WHERE jobs.team_id = teams.id AND jobs.state = 'queued'),"
    " running = (SELECT count(*) FROM jobs WHERE jobs.team_id = teams.id AND jobs.state = 'running')"
)

DAYS_SQLITE = (
    "strftime('%Y-%m-%d 00:00:00.000000', finished_at)",
    "max(0.0, (julianday(finished_at) - julianday(started_at)) * 86400.0)",
)
DAYS_POSTGRESQL = ("date_trunc('day', finished_at, 'UTC')", "greatest(0, extract(epoch FROM finished_at - started_at))")

# The counts follow the rows, however those are written. A heartbeat, which changes no state, costs nothing.
SQLITE = (
    """CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs WHEN NEW.state IN ('queued', 'running') BEGIN
    UPDATE teams SET queued = queued + (NEW.state = 'queued'), running = running + (NEW.state = 'running')
    WHERE id = NEW.team_id;
END""",
    """CREATE TRIGGER jobs_counted AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
    UPDATE teams SET queued = queued + (NEW.state = 'queued') - (OLD.state = 'queued'),
        running = running + (NEW.state = 'running') - (OLD.state = 'running')
    WHERE id = NEW.team_id;
END""",
    """CREATE TRIGGER jobs_timed AFTER UPDATE OF state ON jobs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.started_at IS NOT NULL BEGIN
    INSERT INTO team_days (team_id, day, seconds) VALUES (
        NEW.team_id,
        strftime('%Y-%m-%d 00:00:00.000000', NEW.finished_at),
        max(0.0, (julianday(NEW.finished_at) - julianday(NEW.started_at)) * 86400.0)
    ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
END""",
    """CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs WHEN OLD.state IN ('queued', 'running') BEGIN
    UPDATE teams SET queued = queued - (OLD.state = 'queued'), running = running - (OLD.state = 'running')
    WHERE id = OLD.team_id;
END""",
)
POSTGRESQL = """
CREATE FUNCTION lathe_jobs_counted() RETURNS trigger AS $$
DECLARE was text := ''; is_now text := ''; team text;
BEGIN
    IF TG_OP <> 'INSERT' THEN was := OLD.state; team := OLD.team_id; END IF;
    IF TG_OP <> 'DELETE' THEN is_now := NEW.state; team := NEW.team_id; END IF;
    UPDATE teams SET
        queued = queued + (is_now = 'queued')::int - (was = 'queued')::int,
        running = running + (is_now = 'running')::int - (was = 'running')::int
    WHERE id = team;
    IF TG_OP = 'UPDATE' AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.started_at IS NOT NULL THEN
        INSERT INTO team_days (team_id, day, seconds) VALUES (
            team,
            date_trunc('day', NEW.finished_at, 'UTC'),
            greatest(0, extract(epoch FROM NEW.finished_at - NEW.started_at))
        ) ON CONFLICT (team_id, day) DO UPDATE SET seconds = team_days.seconds + excluded.seconds;
    END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs FOR EACH ROW WHEN (NEW.state IN ('queued', 'running'))
    EXECUTE FUNCTION lathe_jobs_counted();
CREATE TRIGGER jobs_counted AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN (OLD.state <> NEW.state)
    EXECUTE FUNCTION lathe_jobs_counted();
CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs FOR EACH ROW WHEN (OLD.state IN ('queued', 'running'))
    EXECUTE FUNCTION lathe_jobs_counted();
"""


def upgrade() -> None:
    # Plain columns: to make a table anew, as batch mode does on SQLite, would lose its triggers.
    op.execute("ALTER TABLE teams ADD COLUMN weight DOUBLE PRECISION NOT NULL DEFAULT 1 CHECK (weight > 0)")
    op.add_column("teams", sa.Column("quotas", JSON, nullable=True))
    for name in ("queued", "running"):
        op.add_column("teams", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(COUNT)
    op.create_table(
        "team_days",
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("day", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_team_days_team_id")),
        sa.PrimaryKeyConstraint("team_id", "day", name=op.f("pk_team_days")),
    )
    if op.get_bind().dialect.name == "sqlite":
        day, seconds = DAYS_SQLITE
        for trigger in SQLITE:
            op.execute(trigger)
    else:
        day, seconds = DAYS_POSTGRESQL
        op.execute(POSTGRESQL)
    op.execute(
        f"INSERT INTO team_days (team_id, day, seconds) SELECT team_id, {day}, sum({seconds}) FROM jobs"  # noqa: S608
        f" WHERE finished_at IS NOT NULL AND started_at IS NOT NULL GROUP BY team_id, {day}"
    )
    for table, owner in (("models", "model_id"), ("datasets", "dataset_id")):
        for name in ("file_count", "bytes"):
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        mine = f"FROM files WHERE files.{owner} = {table}.id"
        op.execute(
            f"UPDATE {table} SET file_count = (SELECT count(*) {mine}), bytes = (SELECT coalesce(sum(size), 0) {mine})"  # noqa: S608
        )
    op.drop_index("ix_jobs_runnable", "jobs")
    op.create_index("ix_jobs_line", "jobs", ["team_id", sa.text("priority DESC"), "id"], **_where(QUEUED))
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_reservations_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_team_id"), "reservations", ["team_id"])


def _where(condition: sa.TextClause) -> dict[str, sa.TextClause]:
    return {"postgresql_where": condition, "sqlite_where": condition}


def downgrade() -> None:
    op.drop_table("reservations")
    if op.get_bind().dialect.name == "postgresql":
        for trigger in ("jobs_counted_in", "jobs_counted", "jobs_counted_out"):
            op.execute(f"DROP TRIGGER {trigger} ON jobs")
        op.execute("DROP FUNCTION lathe_jobs_counted()")
    else:
        for trigger in ("jobs_counted_in", "jobs_counted", "jobs_timed", "jobs_counted_out"):
            op.execute(f"DROP TRIGGER {trigger}")
    op.drop_table("team_days")
    op.drop_index("ix_jobs_line", "jobs")
    op.create_index("ix_jobs_runnable", "jobs", ["priority", "id"], **_where(QUEUED))
    for table, names in (("models", ("file_count", "bytes")), ("datasets", ("file_count", "bytes"))):
        for name in names:
            op.drop_column(table, name)
    for name in ("weight", "quotas", "queued", "running"):
        op.drop_column("teams", name)
