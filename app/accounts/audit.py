"""The audit log: who changed what, and how it ended. Every changing request of a known key leaves one row, by itself.

What succeeds is written in the request's transaction (dependencies.py), what is refused in one of its own, before the answer
leaves. A file's bytes leave none, unless they are refused; nor do answers that say come again later (429, 503, 507) and our own
failures (500): they would let anybody fill the log, or fail again.
"""

import asyncio
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from fastapi import Request
from sqlalchemy import delete, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.settings import get_settings
from app.store.clock import now
from app.store.db import iso, writing
from app.store.deferred_writes import deferred_writes
from app.store.keyset import newest_page
from app.store.models import AuditEntry

log = structlog.get_logger()
OK = "ok"
FORBIDDEN = 403
UNAUDITED = (401, 429, 500, 503, 507)
"""Statuses that leave no row here; a wrong secret of a known key leaves one a minute (`note_wrong_secret`)."""
COLUMNS = ("id", "at", "key", "address", "action", "object", "outcome", "request_id")


@dataclass(frozen=True)
class AuditedAction:
    """What a request is about to do, as far as it is known."""

    team: str
    key: str
    address: str | None
    action: str
    object: str | None
    request_id: str | None
    changes: bool


def begin_action(request: Request, team: str, key: str, *, changes: bool, action: str | None = None) -> None:
    """Remember with the request who does what; its log line names them, too."""
    request.scope.setdefault("state", {})["deed"] = _deed(request, team, key, changes=changes, action=action)


def _deed(request: Request, team: str, key: str, *, changes: bool, action: str | None) -> AuditedAction:
    route = request.scope.get("route")
    tags = getattr(route, "tags", None) or ["pages"]
    verb = str(getattr(route, "name", "unknown")).rstrip("_")
    named = [value for name, value in request.path_params.items() if name != "path"]
    return AuditedAction(
        team,
        key,
        request.client.host[:64] if request.client else None,
        action or f"{tags[0]}.{verb}",
        str(named[-1])[:200] if named else None,
        request.scope.get("state", {}).get("request_id"),
        changes,
    )


def mark_read_only(request: Request) -> None:
    """Say that a request changes nothing, for all its method."""
    state = request.scope.get("state", {})
    if (deed := state.get("deed")) is not None:
        state["deed"] = replace(deed, changes=False)


def set_object(request: Request, made: str) -> None:
    """Say which object a request made."""
    state = request.scope.get("state", {})
    if (deed := state.get("deed")) is not None:
        state["deed"] = replace(deed, object=made)


def add_entry(session: Session, deed: AuditedAction, outcome: str) -> None:
    """Add a row to a transaction."""
    told = {"team_id": deed.team, "key_id": deed.key, "address": deed.address, "action": deed.action, "object": deed.object}
    keep = now(get_settings().audit_seconds)
    session.add(AuditEntry(**told, outcome=outcome, request_id=deed.request_id, keep_until=keep))


def record_success(session: Session, request: Request) -> None:
    """Add the row of a change that goes well to its own transaction: both are there, or neither."""
    deed: AuditedAction | None = request.scope.get("state", {}).get("deed")
    if deed is not None and deed.changes:
        add_entry(session, deed, OK)


def record_wrong_secret(request: Request, team: str, key: str, outcome: str) -> None:
    """Tell, at most once a minute, that somebody came with a key's id and was not let in. Nobody waits for it."""
    deed = _deed(request, team, key, changes=False, action="sessions.refused")

    def refuse() -> None:
        with writing() as session:
            add_entry(session, deed, outcome)

    deferred_writes.submit(("refused", key), refuse)


def _refused(deed: AuditedAction, outcome: str) -> None:
    try:
        with writing() as session:
            add_entry(session, deed, outcome)
    except SQLAlchemyError as error:
        log.error("audit_failed", error=str(error), action=deed.action, key=deed.key, outcome=outcome)


class AuditMiddleware:
    """Write what is refused, before the answer leaves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and (status := message["status"]) >= 400 and status not in UNAUDITED:
                state = scope.get("state", {})
                deed: AuditedAction | None = state.get("deed")
                if deed is not None and (deed.changes or status == FORBIDDEN):
                    await asyncio.to_thread(_refused, deed, state.get("problem", str(status)))
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


def list_entries(
    session: Session,
    team: str,
    size: int,
    token: str | None,
    *,
    key: str | None = None,
    action: str | None = None,
    about: str | None = None,
    outcome: str | None = None,
) -> tuple[list[AuditEntry], str | None]:
    """Return a page of a team's rows, newest first, and the next page's token. `action` may be a noun alone: `jobs`."""
    query = select(AuditEntry).where(AuditEntry.team_id == team)
    if action:
        query = query.where(
            AuditEntry.action == action if "." in action else AuditEntry.action.startswith(f"{action}.", autoescape=True)
        )
    if about:  # of a rotation both keys are named, with a space between
        ends = (
            AuditEntry.object.startswith(f"{about} ", autoescape=True),
            AuditEntry.object.endswith(f" {about}", autoescape=True),
        )
        query = query.where(or_(AuditEntry.object == about, *ends))
    for column, wanted in ((AuditEntry.key_id, key), (AuditEntry.outcome, outcome)):
        if wanted:
            query = query.where(column == wanted)
    return newest_page(session, query, AuditEntry.id, size, token)


def entry_fields(row: AuditEntry) -> dict[str, Any]:
    """Show a row."""
    same = {name: getattr(row, name) for name in ("id", "at", "address", "action", "object", "outcome", "request_id")}
    return {**same, "key": row.key_id}


def as_csv(rows: Sequence[AuditEntry]) -> str:
    """Write a line a row."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow(COLUMNS)
    for row in rows:
        shown = {**entry_fields(row), "at": iso(row.at)}
        lines.writerow([_cell(shown[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> Any:
    # A spreadsheet runs what begins so, and an object's id is what a caller wrote into an address.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def delete_expired(session: Session) -> None:
    """Delete rows whose time is over. The triggers let no others go."""
    session.execute(delete(AuditEntry).where(AuditEntry.keep_until <= now()))
