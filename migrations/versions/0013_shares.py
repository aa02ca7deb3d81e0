"""Teams have a weight, limits of their own and counts of their jobs; uploads know their size; bytes under way are reserved."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
QUEUED, ENDED = sa.text("state = 'queued'"), sa.text("finished_at IS NOT NULL")
COUNT = (
    "UPDATE teams SET queued = (SELECT count(*) FROM jobs WHERE jobs.team_id = teams.id AND jobs.state = 'queued'),"
    " running = (SELECT count(*) FROM jobs WHERE jobs.team_id = teams.id AND jobs.state = 'running')"
)

# The counts follow the rows, whoever writes these. A heartbeat, which changes no state, costs nothing.
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
    if op.get_bind().dialect.name == "sqlite":
        for trigger in SQLITE:
            op.execute(trigger)
    else:
        op.execute(POSTGRESQL)
    for table, owner in (("models", "model_id"), ("datasets", "dataset_id")):
        for name in ("file_count", "bytes"):
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        mine = f"FROM files WHERE files.{owner} = {table}.id"
        op.execute(
            f"UPDATE {table} SET file_count = (SELECT count(*) {mine}), bytes = (SELECT coalesce(sum(size), 0) {mine})"  # noqa: S608
        )
    op.drop_index("ix_jobs_runnable", "jobs")
    op.create_index("ix_jobs_line", "jobs", ["team_id", sa.text("priority DESC"), "id"], **_where(QUEUED))
    op.create_index("ix_jobs_team_id_finished_at", "jobs", ["team_id", "finished_at"], **_where(ENDED))
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
    for trigger in ("jobs_counted_in", "jobs_counted", "jobs_counted_out"):
        op.execute(f"DROP TRIGGER {trigger}" + ("" if op.get_bind().dialect.name == "sqlite" else " ON jobs"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION lathe_jobs_counted()")
    op.drop_index("ix_jobs_line", "jobs")
    op.drop_index("ix_jobs_team_id_finished_at", "jobs")
    op.create_index("ix_jobs_runnable", "jobs", ["priority", "id"], **_where(QUEUED))
    for table, names in (("models", ("file_count", "bytes")), ("datasets", ("file_count", "bytes"))):
        for name in names:
            op.drop_column(table, name)
    for name in ("weight", "quotas", "queued", "running"):
        op.drop_column("teams", name)
