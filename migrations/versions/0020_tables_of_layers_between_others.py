"""Device tables time convolutions between others of their kind: older ones would predict wrongly, and are measured anew."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM device_tables")


def downgrade() -> None:
    op.execute("DELETE FROM device_tables")
    bind, models = op.get_bind(), sa.table("models", sa.column("id", sa.String), sa.column("facts", sa.JSON))
    for key, facts in bind.execute(sa.select(models.c.id, models.c.facts)).all():
        if facts and facts.get("network"):
            known = facts | {"network": _without_moves(facts["network"])}
            bind.execute(models.update().where(models.c.id == key).values(facts=known))


def _without_moves(network: dict[str, Any]) -> dict[str, Any]:
    """Return a network's facts without operators that the version before does not know."""
    gone = {layer["name"] for layer in network["layers"] if layer["kind"] == "move"}
    blocks = [block | {"layers": [name for name in block["layers"] if name not in gone]} for block in network.get("blocks", ())]
    return network | {"layers": [layer for layer in network["layers"] if layer["name"] not in gone], "blocks": blocks}
