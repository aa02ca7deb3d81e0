"""What is watched: which request made a job, what a stage took, and what counting by state and by setback needs."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

REQUEUED = sa.text("type = 'requeued'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.add_column("metrics", sa.Column("seconds", sa.Double(), nullable=True))  # stages of before are not counted
    op.create_index("ix_jobs_state_deleted_at", "jobs", ["state", "deleted_at"])
    op.create_index("ix_events_requeued", "events", ["type"], postgresql_where=REQUEUED, sqlite_where=REQUEUED)


def downgrade() -> None:
    op.drop_index("ix_events_requeued", "events", postgresql_where=REQUEUED, sqlite_where=REQUEUED)
    op.drop_index("ix_jobs_state_deleted_at", "jobs")
    op.drop_column("metrics", "seconds")
    op.drop_column("jobs", "traceparent")
    op.drop_column("jobs", "request_id")
