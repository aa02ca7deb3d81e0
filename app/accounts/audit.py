"""The audit log: who changed what, and the outcome. Every changing request of a known key leaves one row.

A successful change is recorded in the request's transaction (dependencies.py), a refused one in its own transaction before the
response is sent. File uploads are recorded only if refused. Answers that ask to retry (429, 503, 507) and internal errors (500)
are not recorded: anyone could fill the log with them, or the write would fail as well.
"""

import asyncio
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import structlog
from fastapi import Query, Request
from sqlalchemy import delete, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.schemas import TEXT
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
"""Statuses that leave no row here; a wrong secret of a known key leaves one per minute (`record_wrong_secret`)."""
COLUMNS = ("id", "at", "key", "address", "action", "object", "outcome", "request_id")

Part = Annotated[str | None, Query(max_length=200, pattern=TEXT)]


@dataclass(frozen=True)
class AuditFilter:
    """Filters of a list; all given ones must match. `action` may be only a noun: `jobs`."""

    key: Part = None
    action: Annotated[str | None, Query(max_length=100, pattern=TEXT, description="`jobs.cancel`, or a noun: `jobs`.")] = None
    object: Part = None
    outcome: Part = None


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
    """Attach to the request who does what; its log line names them, too."""
    request.scope.setdefault("state", {})["audited"] = _describe_action(request, team, key, changes=changes, action=action)


def _describe_action(request: Request, team: str, key: str, *, changes: bool, action: str | None) -> AuditedAction:
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
    """Mark a request as changing nothing, whatever its method."""
    state = request.scope.get("state", {})
    if (audited := state.get("audited")) is not None:
        state["audited"] = replace(audited, changes=False)


def set_object(request: Request, made: str) -> None:
    """Record which object the request created."""
    state = request.scope.get("state", {})
    if (audited := state.get("audited")) is not None:
        state["audited"] = replace(audited, object=made)


def add_entry(session: Session, audited: AuditedAction, outcome: str) -> None:
    """Add a row to a transaction."""
    fields = {
        "team_id": audited.team,
        "key_id": audited.key,
        "address": audited.address,
        "action": audited.action,
        "object": audited.object,
    }
    keep = now(get_settings().audit_seconds)
    session.add(AuditEntry(**fields, outcome=outcome, request_id=audited.request_id, keep_until=keep))


def record_success(session: Session, request: Request) -> None:
    """Add the row of a successful change to its own transaction: both are committed, or neither."""
    audited: AuditedAction | None = request.scope.get("state", {}).get("audited")
    if audited is not None and audited.changes:
        add_entry(session, audited, OK)


def record_wrong_secret(request: Request, team: str, key: str, outcome: str) -> None:
    """Record, at most once per minute, that a known key was refused. No request waits for it."""
    audited = _describe_action(request, team, key, changes=False, action="sessions.refused")

    def refuse() -> None:
        with writing() as session:
            add_entry(session, audited, outcome)

    deferred_writes.submit(("refused", key), refuse)


def _record_refusal(audited: AuditedAction, outcome: str) -> None:
    try:
        with writing() as session:
            add_entry(session, audited, outcome)
    except SQLAlchemyError as error:
        log.error("audit_failed", error=str(error), action=audited.action, key=audited.key, outcome=outcome)


class AuditMiddleware:
    """Records refused requests before the response is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and (status := message["status"]) >= 400 and status not in UNAUDITED:
                state = scope.get("state", {})
                audited: AuditedAction | None = state.get("audited")
                if audited is not None and (audited.changes or status == FORBIDDEN):
                    await asyncio.to_thread(_record_refusal, audited, state.get("problem", str(status)))
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


def list_entries(
    session: Session, team: str, size: int, token: str | None, wanted: AuditFilter
) -> tuple[list[AuditEntry], str | None]:
    """Return a page of a team's rows, newest first, and the next page's token."""
    query = select(AuditEntry).where(AuditEntry.team_id == team)
    if action := wanted.action:
        query = query.where(
            AuditEntry.action == action if "." in action else AuditEntry.action.startswith(f"{action}.", autoescape=True)
        )
    if about := wanted.object:  # a rotation names both keys, separated by a space
        ends = (
            AuditEntry.object.startswith(f"{about} ", autoescape=True),
            AuditEntry.object.endswith(f" {about}", autoescape=True),
        )
        query = query.where(or_(AuditEntry.object == about, *ends))
    for column, value in ((AuditEntry.key_id, wanted.key), (AuditEntry.outcome, wanted.outcome)):
        if value:
            query = query.where(column == value)
    return newest_page(session, query, AuditEntry.id, size, token)


def entry_fields(row: AuditEntry) -> dict[str, Any]:
    """Return a row's public fields."""
    same = {name: getattr(row, name) for name in ("id", "at", "address", "action", "object", "outcome", "request_id")}
    return {**same, "key": row.key_id}


def as_csv(rows: Sequence[AuditEntry]) -> str:
    """Format rows as CSV."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow(COLUMNS)
    for row in rows:
        shown = {**entry_fields(row), "at": iso(row.at)}
        lines.writerow([_cell(shown[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> Any:
    # Spreadsheets execute cells that start like this, and callers choose the object ids in addresses.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def delete_expired(session: Session) -> None:
    """Delete expired rows. Triggers reject other deletions."""
    session.execute(delete(AuditEntry).where(AuditEntry.keep_until <= now()))
