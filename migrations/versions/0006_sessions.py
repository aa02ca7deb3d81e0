"""People sign in with a key: sessions. A key reads or writes; a job knows the key that it was sent with."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_sessions_key_id")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_key_id"), "sessions", ["key_id"], unique=False)
    op.add_column("api_keys", sa.Column("scope", sa.String(length=20), nullable=False, server_default="write"))
    op.add_column("jobs", sa.Column("key_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    """Undo `upgrade`. Keys that only read would read and write without a scope: they are revoked."""
    op.execute("UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP WHERE scope = 'read' AND revoked_at IS NULL")
    op.drop_column("jobs", "key_id")
    op.drop_column("api_keys", "scope")
    op.drop_index(op.f("ix_sessions_key_id"), table_name="sessions")
    op.drop_table("sessions")
