"""Forecasts are kept with their jobs, and what finished jobs took beside them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("forecast", JSON, nullable=True))
    op.create_table(
        "job_times",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("machine", sa.String(length=200), nullable=False),
        sa.Column("threads", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("stages", JSON, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_times"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_times_job_id"),
    )
    op.create_index("ix_job_times_machine", "job_times", ["machine", "threads", "kind", "finished_at"])


def downgrade() -> None:
    op.drop_table("job_times")
    op.drop_column("jobs", "forecast")
