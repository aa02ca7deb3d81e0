"""`python -m app.bootstrap`: bring the database up to date and, at the very first start, make the first key.

Prints one JSON line: {"migrated": REVISION, "key": "lathe_…" or null}. The key is shown this once. Safe to run at every
start, and from several processes: alembic's transaction and the key's own check see to that. Whoever can run this owns the
database, so `--key NAME` makes one more key of the default team: the way back when the only key is lost.
"""

import argparse
import json
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select

from app.auth import DEFAULT_TEAM, create_key, first_key
from app.db import get_engine, writing
from app.models import Team


def alembic_config() -> Config:
    """Return alembic's configuration; the URL comes from the settings, not from a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config


def main() -> None:
    """Migrate, and make the first key or the one that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m app.bootstrap", description="Migrate; make the first key.")
    parser.add_argument("--key", metavar="NAME", help="make one more key of the default team")
    asked = parser.parse_args()
    config = alembic_config()
    with get_engine().begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with writing() as session:
        key = first_key(session)
        if key is None and asked.key:
            team = session.scalars(select(Team.id).where(Team.name == DEFAULT_TEAM)).one()
            key = create_key(session, team, asked.key)[1]
    head = ScriptDirectory.from_config(config).get_current_head()
    sys.stdout.write(json.dumps({"migrated": head, "key": key}) + "\n")


if __name__ == "__main__":
    main()
