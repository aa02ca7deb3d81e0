"""lathe keys: who may ask."""

from typing import Annotated

import typer

from client.commands import connect
from client.output import AsJson, emit, table

app = typer.Typer(help="API keys of your team.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="It sees everything of the team and changes nothing.")] = False,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Make another key. It is shown this once."""
    with connect() as lathe:
        key = lathe.create_key(name, scope="read" if read_only else "write")
    emit(key, key.key, f"This is shown once. Use it with: export LATHE_KEY={key.key}")


@app.command()
def ls(json: AsJson = False) -> None:  # noqa: ARG001
    """List the keys that are in force."""
    with connect() as lathe:
        keys = list(lathe.keys())
    rows = [(key.id, key.name, key.scope, key.created_at and f"{key.created_at:%Y-%m-%d %H:%M}") for key in keys]
    emit(keys, table(("id", "name", "may", "created"), rows, empty="No keys."))


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="Its id (lathe keys ls).")], json: AsJson = False) -> None:  # noqa: ARG001
    """End a key at once."""
    with connect() as lathe:
        lathe.delete(f"keys/{key}")
    emit({"revoked": key}, f"{key} is revoked.")
