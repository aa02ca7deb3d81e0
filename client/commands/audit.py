"""lathe audit: what the team's keys did."""

import math
import sys
from itertools import islice
from typing import Annotated, Any

import httpx
import typer

from client.api import Lathe
from client.core.fields import AuditFilter
from client.terminal.output import as_json, emit, table
from client.terminal.text import lines

LISTED, PAGE = 50, 200
"""Entries of a table without --limit, and the most that the service answers at once."""
LIMIT_HELP = f"At most so many, newest first; by default {LISTED}, with --csv all."


def audit(
    lathe: Lathe,
    key: Annotated[str | None, typer.Option(help="Only by the key of this id.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action: jobs.cancel, or a noun, such as jobs.")] = None,
    object: Annotated[str | None, typer.Option(help="Only changes of this id.")] = None,  # noqa: A002
    outcome: Annotated[str | None, typer.Option(help="Only this outcome: ok, or a problem's code.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=LIMIT_HELP)] = None,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV, all entries unless --limit says how many.")] = False,
) -> None:
    """List what your team's keys changed, and what they were refused. Only admins may."""
    if csv and as_json():
        raise typer.BadParameter("--csv and --json are two forms of one list", param_hint="--csv")
    asked: AuditFilter = {"key": key, "action": action, "object": object, "outcome": outcome}
    if csv:
        _write_csv(lathe, asked, limit)
        return
    found = list(islice(lathe.audit(**asked), limit or LISTED))
    rows = [
        (f"{one.at:%Y-%m-%d %H:%M:%S}", one.key, one.address, one.action, one.outcome, one.request_id, one.object)
        for one in found
    ]
    columns = ("when", "key", "from", "what", "outcome", "request", "object")
    emit(found, table(columns, rows, empty="Nothing of this kind."))


def _write_csv(lathe: Lathe, asked: AuditFilter, limit: int | None) -> None:
    params: dict[str, Any] = {**asked, "format": "csv"}
    first, left = True, math.inf if limit is None else limit
    while first or (params["page_token"] and left):
        params["page_size"] = min(PAGE, left)
        left -= params["page_size"]  # only the last page has fewer
        answer = lathe.request("GET", "/v1/audit", params=params)
        following = answer.links.get("next", {}).get("url")
        params["page_token"] = httpx.URL(following).params.get("page_token") if following else None
        head, rest = answer.text.split("\n", 1)
        shown = f"{head}\n{rest}" if first else rest
        sys.stdout.write(lines(shown) if sys.stdout.isatty() else shown)
        first = False
