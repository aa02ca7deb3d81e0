"""Keys have an end, a last use and a maker; one scope administers; links know their key; the audit log, which only grows."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KEY_COLUMNS = {
    "expires_at": sa.DateTime(timezone=True),
    "last_used_at": sa.DateTime(timezone=True),
    "made_by": sa.String(length=40),
    "replaces": sa.String(length=40),
}
SQLITE = (
    """CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END""",
    """CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    WHEN OLD.keep_until > strftime('%Y-%m-%d %H:%M:%f000', 'now')
    BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END""",
    """CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END""",
)
POSTGRESQL = """
CREATE FUNCTION lathe_audit_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.keep_until <= clock_timestamp() THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log only grows';
END $$;
CREATE TRIGGER audit_log_only_grows BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION lathe_audit_log_only_grows();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION lathe_audit_log_only_grows();
"""


def upgrade() -> None:
    op.add_column("teams", sa.Column("operator", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name, kind in KEY_COLUMNS.items():
        op.add_column("api_keys", sa.Column(name, kind, nullable=True))
    op.add_column("share_links", sa.Column("key_id", sa.String(length=40), nullable=True))
    # The team that the first start made runs the service; where it was renamed or is gone, the oldest does.
    op.execute(
        "UPDATE teams SET operator = true WHERE id = "
        "(SELECT id FROM teams ORDER BY CASE WHEN name = 'default' THEN 0 ELSE 1 END, created_at, id LIMIT 1)"
    )
    op.execute(
        "UPDATE api_keys SET scope = 'admin' WHERE id IN ("
        "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY team_id ORDER BY created_at, id) AS place "
        "FROM api_keys WHERE scope = 'write' AND revoked_at IS NULL) AS writers WHERE place = 1)"
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("object", sa.String(length=200), nullable=True),
        sa.Column("outcome", sa.String(length=60), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("keep_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_audit_log_team_id_id", "audit_log", ["team_id", "id"])
    op.create_index("ix_audit_log_keep_until", "audit_log", ["keep_until"])
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE:
            op.execute(statement)
    else:
        op.execute(POSTGRESQL)


def downgrade() -> None:
    """Undo `upgrade`. What an older version would take for more than it is, or for longer than it may be, is revoked."""
    op.drop_table("audit_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION lathe_audit_log_only_grows()")
    op.execute(
        "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP "
        "WHERE (scope = 'device' OR expires_at IS NOT NULL) AND revoked_at IS NULL"
    )
    op.execute("UPDATE api_keys SET scope = 'write' WHERE scope = 'admin'")
    # Of links that their keys took along an older version would open those again.
    op.execute("DELETE FROM share_links WHERE key_id IN (SELECT id FROM api_keys WHERE revoked_at IS NOT NULL)")
    op.drop_column("share_links", "key_id")
    for name in reversed(KEY_COLUMNS):
        op.drop_column("api_keys", name)
    op.drop_column("teams", "operator")
