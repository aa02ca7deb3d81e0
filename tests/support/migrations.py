"""Takes a database to another revision, forward or back."""

from alembic import command
from sqlalchemy import Engine

from app.bootstrap import alembic_config


def migrate(engine: Engine, revision: str, *, down: bool = False) -> None:
    """Migrate the engine's database to `revision`."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
