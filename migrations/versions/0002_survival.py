"""What jobs need to survive: deadlines, forecasts, smaller batches, writes that can be repeated, sweeping."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JOB_COLUMNS = (
    sa.Column("deadline_seconds", sa.BigInteger(), nullable=True),
    sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
    sa.Column("disk_bytes", sa.BigInteger(), nullable=True),
    sa.Column("split_batches", sa.BigInteger(), nullable=False, server_default="1"),
    sa.Column("swept_fence", sa.BigInteger(), nullable=False, server_default="0"),
)


def upgrade() -> None:
    for column in JOB_COLUMNS:
        op.add_column("jobs", column.copy())
    op.add_column("events", sa.Column("origin", sa.String(length=40), nullable=True))
    op.create_index("ix_events_origin", "events", ["job_id", "origin"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_events_origin", table_name="events")
    op.drop_column("events", "origin")
    for column in reversed(JOB_COLUMNS):
        op.drop_column("jobs", column.name)
