"""The jobs that succeeded last are found at once: every list with a waiting job asks for them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SUCCEEDED = sa.text("state = 'succeeded'")


def upgrade() -> None:
    op.create_index("ix_jobs_succeeded", "jobs", ["finished_at"], postgresql_where=SUCCEEDED, sqlite_where=SUCCEEDED)


def downgrade() -> None:
    op.drop_index("ix_jobs_succeeded", "jobs", postgresql_where=SUCCEEDED, sqlite_where=SUCCEEDED)
