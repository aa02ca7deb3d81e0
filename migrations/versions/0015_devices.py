"""Devices measure artifacts: who they are, what is asked of them, and what they found."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("device_id", sa.String(length=40), nullable=True))
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("facts", JSON, nullable=True),
        sa.Column("last_heard", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_devices_team_id"),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
    )
    _index("ix_devices_name", "devices", ["team_id", "name"], "deleted_at IS NULL", unique=True)
    op.create_table(
        "profiles",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("artifact_id", sa.String(length=40), nullable=False),
        sa.Column("device_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("figures", JSON, nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_profiles_artifact_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_profiles_device_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_profiles_job_id"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_profiles_team_id"),
        sa.PrimaryKeyConstraint("id", name="pk_profiles"),
    )
    for column in ("job_id", "artifact_id"):
        op.create_index(f"ix_profiles_{column}", "profiles", [column])
    op.create_index("ix_profiles_team_id_id", "profiles", ["team_id", "id"])
    _index("ix_profiles_line", "profiles", ["device_id", "id"], "state = 'queued'")
    _index("ix_profiles_leases", "profiles", ["lease_until"], "state = 'running'")


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    op.drop_table("profiles")
    op.drop_table("devices")
    # An older version would let such a key read every artifact of its team.
    op.execute("UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP WHERE device_id IS NOT NULL AND revoked_at IS NULL")
    op.drop_column("api_keys", "device_id")
