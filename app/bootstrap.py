"""`python -m app.bootstrap`: migrate the database, and create an admin key for the operating team if it has none.

Prints one JSON line: {"migrated": REVISION, "key": "lathe_…" or null}. The key is shown only this once. Safe to run at every
start, and from several processes: alembic's transaction and the key's own check ensure that. The one who runs this owns the
database, so `--key NAME` creates another admin key, for when the only key is lost. Both keys belong to the operating team,
which the first start creates, or to the team that `--team` names, which opens a closed team again.

`--down REVISION` migrates back instead, for an older version, with all other processes stopped: {"migrated": REVISION, "key":
null}. What newer revisions store is lost, so the backup of before the update is the safer way.
"""

import argparse
import json
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import keys
from app.store.db import get_engine, writing
from app.store.models import ADMIN, Team


def alembic_config() -> Config:
    """Return alembic's configuration; the URL comes from the settings, not from a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config


def _team(session: Session, name: str | None) -> Team:
    if name is None:
        return keys.ensure_operator_team(session)
    found = session.scalar(select(Team).where(Team.name == name))
    if found is None:
        raise SystemExit(f"there is no team {name!r}; `lathe teams ls` lists them")
    return found


def main() -> None:
    """Migrate, and create a missing admin key, or the requested one; or only migrate back."""
    config = alembic_config()
    revisions = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    parser = argparse.ArgumentParser(prog="python -m app.bootstrap", description="Migrate, and create a missing admin key.")
    parser.add_argument("--key", metavar="NAME", help="create another admin key")
    parser.add_argument("--team", metavar="NAME", help="of this team; default: the operating team")
    down = "only migrate back to this one, for an older version; stop all other processes first"
    parser.add_argument("--down", metavar="REVISION", choices=revisions, help=down)
    arguments = parser.parse_args()
    if arguments.down and (arguments.key or arguments.team):
        parser.error("--down makes no key: leave out --key and --team")
    with get_engine().begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.downgrade(config, arguments.down) if arguments.down else command.upgrade(config, "head")
        except CommandError as error:
            raise SystemExit(f"the database cannot be migrated: {error}") from error
    if arguments.down:
        _tell(arguments.down, None)
        return
    with writing() as session:
        team = _team(session, arguments.team)
        key = keys.ensure_admin_key(session, team.id, arguments.key or "first")
        if key is None and arguments.key:
            key = keys.create_key(session, team.id, arguments.key, ADMIN)[1]
    _tell(revisions[0], key)


def _tell(revision: str, key: str | None) -> None:
    sys.stdout.write(json.dumps({"migrated": revision, "key": key}) + "\n")


if __name__ == "__main__":
    main()
