"""How alembic reaches the database: through the connection that app.bootstrap opened."""

from alembic import context

from app.store.db import get_engine
from app.store.models import Base


def run(connection: object) -> None:
    """Run the migrations on an open connection, in its transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with get_engine().begin() as opened:
        run(opened)
