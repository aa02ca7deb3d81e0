"""Metrics moved from job to job: neither may be over. SQLite looked at the one they left, PostgreSQL at the other."""

from alembic import op

SQLITE = """
CREATE TRIGGER metrics_are_final_update BEFORE UPDATE ON metrics
WHEN EXISTS (SELECT 1 FROM jobs WHERE id IN ({ids}) AND state IN ('succeeded', 'failed', 'cancelled'))
BEGIN SELECT RAISE(ABORT, 'the metrics of a finished job are final'); END;
"""

# One function serves every change: of an insert OLD is null, of a delete NEW.
POSTGRESQL = """
CREATE OR REPLACE FUNCTION lathe_metrics_are_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM jobs WHERE id IN ({ids}) AND state IN ('succeeded', 'failed', 'cancelled'))
    THEN RAISE EXCEPTION 'the metrics of a finished job are final'; END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
"""

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _lay("OLD.job_id, NEW.job_id", "OLD.job_id, NEW.job_id")


def downgrade() -> None:
    _lay("OLD.job_id", "COALESCE(NEW.job_id, OLD.job_id)")


def _lay(sqlite: str, postgresql: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER metrics_are_final_update")
        op.execute(SQLITE.format(ids=sqlite))
    else:
        op.execute(POSTGRESQL.format(ids=postgresql))
