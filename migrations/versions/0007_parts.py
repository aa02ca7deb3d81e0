"""A file of an upload may come in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "upload_parts",
        sa.Column("file_id", sa.String(length=40), nullable=False),
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_upload_parts_file_id")),
        sa.PrimaryKeyConstraint("file_id", "start", name=op.f("pk_upload_parts")),
    )


def downgrade() -> None:
    """Undo `upgrade`. Files that had not come in full are sent anew."""
    op.drop_table("upload_parts")
