"""A job may name a student and teachers beside its model."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_models",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_models_job_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_job_models_model_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_job_models")),
    )
    with op.batch_alter_table("job_models", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_models_model_id"), ["model_id"], unique=False)


def downgrade() -> None:
    """Undo `upgrade`. Jobs with named students or teachers keep their model alone."""
    with op.batch_alter_table("job_models", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_models_model_id"))
    op.drop_table("job_models")
