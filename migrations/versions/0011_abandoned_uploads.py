"""An upload knows when bytes last came: one that was given up is told from one that goes on."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("models", "datasets"):
        op.add_column(table, sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for table in ("models", "datasets"):
        op.drop_column(table, "arrived_at")
