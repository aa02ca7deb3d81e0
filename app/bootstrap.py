"""`python -m app.bootstrap`: bring the database up to date and, at the very first start, make the first key.

Prints one JSON line: {"migrated": REVISION, "key": "lathe_…" or null}. The key is shown this once. Safe to run at every
start, and from several processes: alembic's transaction and the key's own check see to that.
"""

import json
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.auth import first_key
from app.db import get_engine, writing


def alembic_config() -> Config:
    """Return alembic's configuration; the URL comes from the settings, not from a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config


def main() -> None:
    """Migrate and make the first key."""
    config = alembic_config()
    with get_engine().begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with writing() as session:
        key = first_key(session)
    head = ScriptDirectory.from_config(config).get_current_head()
    sys.stdout.write(json.dumps({"migrated": head, "key": key}) + "\n")


if __name__ == "__main__":
    main()
