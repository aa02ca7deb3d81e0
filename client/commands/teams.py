"""lathe teams: the teams that share the service."""

from typing import Annotated

import typer

from client.api import Lathe
from client.commands.keys import moment
from client.commands.registry import Commands
from client.terminal.output import emit, table

app = Commands(help="Teams; admins of the one that runs the service make, rename and close others.", no_args_is_help=True)
TeamId = Annotated[str, typer.Argument(metavar="TEAM", help="Its id (lathe teams ls).")]


@app.command()
def ls(lathe: Lathe) -> None:
    """List your own team, or all teams if you run the service."""
    found = lathe.teams()
    rows = [
        (team.id, moment(team.created_at), "yes" if team.operator else None, f"{team.name} (yours)" if team.mine else team.name)
        for team in found
    ]
    emit(found, table(("id", "created", "runs the service", "name"), rows, empty="No teams."))


@app.command()
def create(lathe: Lathe, name: Annotated[str, typer.Argument(help="What it is called.")]) -> None:
    """Make a team and its first key, an admin's. The key is shown this once."""
    team = lathe.create_team(name)
    emit(team, str(team.key), f"The first key of {team.name}, an admin's, shown once. Its team is {team.id}.")


@app.command()
def rename(lathe: Lathe, team: TeamId, name: Annotated[str, typer.Argument(help="Its new name.")]) -> None:
    """Give a team another name."""
    found = lathe.rename_team(team, name)
    emit(found, f"{found.id} is called {found.name}.")


@app.command()
def close(lathe: Lathe, team: TeamId) -> None:
    """End all keys of a team. What it stored stays; `python -m app.bootstrap --team NAME` opens it again."""
    lathe.delete(f"teams/{team}")
    emit({"closed": team}, f"{team} is closed: its keys, sessions and share links have ended.")
