"""`python -m app.quotas TEAM [NAME=NUMBER …]`: show or change what a team may use."""

import argparse
import sys
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.core.settings import get_settings
from app.store.db import writing
from app.store.quotas import NAMES, WEIGHT, change_quotas


def main() -> None:
    """Show a team's limits, after the requested changes."""
    parser = argparse.ArgumentParser(prog="python -m app.quotas", description="Show or change a team's limits.")
    parser.add_argument("team", help="name or id")
    parser.add_argument(
        "changes", nargs="*", metavar="NAME=NUMBER", help=f"{', '.join((*NAMES, WEIGHT))}; NAME= for the default"
    )
    arguments, place = parser.parse_args(), make_url(get_settings().database_url)
    try:
        pairs = [pair.partition("=") for pair in arguments.changes]
        if named := [name for name, sign, _ in pairs if not sign]:
            raise ValueError(f"{', '.join(named)}: write NAME=NUMBER, or NAME= for the default; without names all are shown")
        changes = {name: float(value) if value else None for name, _, value in pairs}
        if place.drivername == "sqlite" and not Path(place.database or "").is_file():  # connecting would create one
            raise ValueError(f"there is no {place.database}; LATHE_HOME or LATHE_DATABASE_URL names the database")
        with writing() as session:
            found = change_quotas(session, arguments.team, changes)
    except ValueError as error:
        parser.error(str(error))
    except (OperationalError, ProgrammingError):
        parser.error(f"{place} is not a database of Lathe; LATHE_HOME or LATHE_DATABASE_URL names it")
    sys.stdout.write(found.model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    main()
