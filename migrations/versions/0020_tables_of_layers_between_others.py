"""Device tables time convolutions between others of their kind: older ones would predict wrongly, and are measured anew."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM device_tables")


def downgrade() -> None:
    op.execute("DELETE FROM device_tables")
