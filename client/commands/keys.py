"""lathe keys: API keys of the team."""

from datetime import datetime
from typing import Annotated, Any

import typer

from client.api import Lathe
from client.commands.days import DAY, days_within
from client.commands.registry import Commands
from client.core.fields import Scope
from client.terminal.output import emit, table

app = Commands(help="API keys of your team. Admins make, rotate and revoke them.", no_args_is_help=True)
_within = days_within(3660)
Days = Annotated[
    float | None, typer.Option(callback=_within, metavar="DAYS", help="Days until it ends, at most 3660; by default never.")
]
NEW_HELP = "Days until the new key ends, at most 3660; by default the lifetime of the old one."


def moment(value: datetime | None) -> str | None:
    """Return a time as a table shows it."""
    return f"{value:%Y-%m-%d %H:%M}" if value else None


def _seconds(days: float | None) -> int | None:
    return None if days is None else round(days * DAY)


@app.command()
def create(
    lathe: Lathe,
    name: Annotated[str, typer.Argument(help="Its purpose.")],
    scope: Annotated[
        Scope | None,
        typer.Option(
            help="By default write. read: sees everything and changes nothing; write: changes all but keys; admin: also makes "
            "and revokes keys, and reads the audit log; device: for a machine that only measures, reads artifacts alone (a "
            "registered device has a key of its own: lathe device register)."
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="The same as --scope read.")] = False,
    days: Days = None,
) -> None:
    """Make another key. It is shown this once."""
    if read_only and scope not in (None, "read"):
        raise typer.BadParameter(f"it is the same as --scope read, and not {scope}", param_hint="--read-only")
    key = lathe.create_key(name, scope="read" if read_only else scope or "write", expires_in=_seconds(days))
    emit(key, key.key, f"This is shown once. Use it with: export LATHE_KEY={key.key}")


@app.command()
def ls(lathe: Lathe) -> None:
    """List the active keys."""
    keys = list(lathe.keys())
    names: dict[str | None, Any] = {key.id: key.name for key in keys}
    rows = [
        (
            key.id,
            key.scope,
            moment(key.created_at),
            moment(key.expires_at) or "never",
            moment(key.last_used_at),
            names.get(key.made_by, key.made_by),
            f"{key.name} (this one)" if key.mine else key.name,
        )
        for key in keys
    ]
    emit(
        keys, table(("id", "may", "created (UTC)", "ends (UTC)", "last used (UTC)", "made by", "name"), rows, empty="No keys.")
    )


@app.command()
def rotate(
    lathe: Lathe,
    key: Annotated[str, typer.Argument(help="Its id (lathe keys ls).")],
    overlap: Annotated[float, typer.Option(min=0, max=90 * 24, help="Hours that the old key still works.")] = 24,
    days: Annotated[float | None, typer.Option(callback=_within, metavar="DAYS", help=NEW_HELP)] = None,
) -> None:
    """Replace a key by a new one, which is shown this once; the old one works for a while."""
    new = lathe.rotate_key(key, overlap=round(overlap * 3600), expires_in=_seconds(days))
    emit(new, new.key, f"This is shown once. {key} works for {overlap:g} h more; sooner: lathe keys revoke {key}")


@app.command()
def revoke(lathe: Lathe, key: Annotated[str, typer.Argument(help="Its id (lathe keys ls).")]) -> None:
    """End a key at once, with its sessions and share links. Without an admin's key only the one in use can be ended."""
    lathe.delete(f"keys/{key}")
    emit({"revoked": key}, f"{key} is revoked.")
