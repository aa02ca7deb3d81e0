"""What a job asks for and needs of a worker's device: jobs of before run on any."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device", sa.String(length=8), server_default="any", nullable=False))
    op.add_column("jobs", sa.Column("card_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("host_bytes_with_card", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "host_bytes_with_card")
    op.drop_column("jobs", "card_bytes")
    op.drop_column("jobs", "device")
