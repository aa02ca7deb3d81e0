"""Workers say until when they claim nothing, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("rests_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("rest_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "rest_reason")
    op.drop_column("workers", "rests_until")
