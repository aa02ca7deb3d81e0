"""The rows of the data that a report shows lie beside it: the report is final, and they go when their dataset is deleted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("samples", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "samples")
