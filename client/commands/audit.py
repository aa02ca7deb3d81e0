"""lathe audit: what the team's keys did."""

import sys
from itertools import islice
from typing import Annotated, Any

import httpx
import typer

from client.api import Lathe
from client.core.fields import AuditFilter
from client.terminal.output import emit, table
from client.terminal.text import lines


def audit(
    lathe: Lathe,
    key: Annotated[str | None, typer.Option(help="Only by the key of this id.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action: jobs.cancel, or a noun, such as jobs.")] = None,
    object: Annotated[str | None, typer.Option(help="Only changes of this id.")] = None,  # noqa: A002
    outcome: Annotated[str | None, typer.Option(help="Only this outcome: ok, or a problem's code.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="All entries, as CSV.")] = False,
) -> None:
    """List what your team's keys changed, and what they were refused. Only admins may."""
    asked: AuditFilter = {"key": key, "action": action, "object": object, "outcome": outcome}
    if csv:
        _write_csv(lathe, asked)
        return
    found = list(islice(lathe.audit(**asked), limit))
    rows = [
        (f"{one.at:%Y-%m-%d %H:%M:%S}", one.key, one.address, one.action, one.outcome, one.request_id, one.object)
        for one in found
    ]
    columns = ("when", "key", "from", "what", "outcome", "request", "object")
    emit(found, table(columns, rows, empty="Nothing of this kind."))


def _write_csv(lathe: Lathe, asked: AuditFilter) -> None:
    params: dict[str, Any] = {**asked, "format": "csv", "page_size": 200}
    first = True
    while first or params["page_token"]:
        answer = lathe.request("GET", "/v1/audit", params=params)
        following = answer.links.get("next", {}).get("url")
        params["page_token"] = httpx.URL(following).params.get("page_token") if following else None
        head, rest = answer.text.split("\n", 1)
        shown = f"{head}\n{rest}" if first else rest
        sys.stdout.write(lines(shown) if sys.stdout.isatty() else shown)
        first = False
