"""How many devices of a worker a job trains on: jobs of before on one."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("devices", sa.BigInteger(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("jobs", "devices")
