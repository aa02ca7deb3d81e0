"""lathe teams: who shares the service."""

from typing import Annotated

import typer

from client.commands import connect
from client.commands.keys import moment
from client.terminal.output import AsJson, emit, table

app = typer.Typer(help="Teams; admins of the one that runs the service make, rename and close others.", no_args_is_help=True)
TeamId = Annotated[str, typer.Argument(metavar="TEAM", help="Its id (lathe teams ls).")]


@app.command()
def ls(json: AsJson = False) -> None:  # noqa: ARG001
    """List your own team, or all teams if you run the service."""
    with connect() as lathe:
        found = lathe.teams()
    rows = [
        (team.id, moment(team.created_at), "yes" if team.operator else None, f"{team.name} (yours)" if team.mine else team.name)
        for team in found
    ]
    emit(found, table(("id", "created", "runs the service", "name"), rows, empty="No teams."))


@app.command()
def create(name: Annotated[str, typer.Argument(help="What it is called.")], json: AsJson = False) -> None:  # noqa: ARG001
    """Make a team and its first key, an admin's. The key is shown this once."""
    with connect() as lathe:
        team = lathe.create_team(name)
    emit(team, str(team.key), f"The first key of {team.name}, an admin's, shown once. Its team is {team.id}.")


@app.command()
def rename(
    team: TeamId,
    name: Annotated[str, typer.Argument(help="Its new name.")],
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Give a team another name."""
    with connect() as lathe:
        found = lathe.rename_team(team, name)
    emit(found, f"{found.id} is called {found.name}.")


@app.command()
def close(team: TeamId, json: AsJson = False) -> None:  # noqa: ARG001
    """End all keys of a team. What it stored stays; `python -m app.bootstrap --team NAME` opens it again."""
    with connect() as lathe:
        lathe.delete(f"teams/{team}")
    emit({"closed": team}, f"{team} is closed: its keys, sessions and share links have ended.")
