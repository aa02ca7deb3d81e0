"""Device tables: what single layers cost on the machines of the workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "device_tables",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("processor", sa.String(length=200), nullable=False),
        sa.Column("threads", sa.BigInteger(), nullable=False),
        sa.Column("facts", JSON, nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.Column("worker", sa.String(length=40), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_device_tables"),
        sa.UniqueConstraint("digest", name="uq_device_tables_digest"),
    )
    op.add_column("jobs", sa.Column("resolved", JSON, nullable=True))
    op.create_index("ix_device_tables_processor", "device_tables", ["processor", "threads", "measured_at"])


def downgrade() -> None:
    op.drop_column("jobs", "resolved")
    op.drop_table("device_tables")
