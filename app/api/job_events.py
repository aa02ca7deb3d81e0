"""A job's events: pages by sequence number, and a live stream without losses or duplicates."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.sse import format_sse_event
from sqlalchemy import select

from app.accounts.auth import Caller, is_active
from app.api.long_poll import KEEP_ALIVE_SECONDS, change_poller
from app.api.schemas import EventOut
from app.core.errors import InvalidRequest, NotFound
from app.store.db import reading
from app.store.keyset import decode_token
from app.store.models import TERMINAL, Event, Job

BATCH = 200
MAX_SEQ = 2**63 - 1
"""The largest sequence number that the databases can compare."""


@dataclass(frozen=True)
class EventQuery:
    """Where a list or a stream begins, and what a stream has beside events."""

    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_SEQ)] = None
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events with a greater seq.")] = 0
    states: Annotated[bool, Query(description="In a stream: also a `state`, without id, for each change of the job.")] = False


def list_events(team: str, job_id: str, after: int, size: int, token: str | None) -> tuple[list[EventOut], str | None]:
    """Return events with a greater seq than `after` (or than the token's), and the next page's token."""
    if token:
        after = _parse_seq(decode_token(token))
    found = _read_after(team, job_id, after, size + 1).events
    more = len(found) > size
    found = found[:size]
    following = base64.urlsafe_b64encode(str(found[-1].seq).encode()).decode().rstrip("=") if more else None
    return found, following


def _parse_seq(text: str) -> int:
    if not text.isdigit() or int(text) > MAX_SEQ:
        raise InvalidRequest("page_token is invalid", param="page_token")
    return int(text)


@dataclass(frozen=True)
class _Snapshot:
    """The result of one read."""

    events: list[EventOut]
    version: int
    over: bool
    state: dict[str, Any]


def _read_after(team: str, job_id: str, seq: int, limit: int, caller: Caller | None = None) -> _Snapshot:
    """Return the events after `seq`, and the job's state. Raises NotFound, also if the `caller` is no longer admitted."""
    with reading() as session:
        if caller is not None and not is_active(session, caller):
            raise NotFound(f"no job {job_id}")
        mine = (Job.id == job_id, Job.team_id == team, Job.deleted_at.is_(None))
        job = session.execute(select(Job.version, Job.state, Job.stage, Job.progress).where(*mine)).one_or_none()
        if job is None:
            raise NotFound(f"no job {job_id}")
        rows = session.scalars(select(Event).where(Event.job_id == job_id, Event.seq > seq).order_by(Event.seq).limit(limit))
        state = {"version": job.version, "state": job.state, "stage": job.stage, "progress": job.progress}
        return _Snapshot([EventOut.model_validate(row) for row in rows], job.version, job.state in TERMINAL, state)


async def stream_events(caller: Caller, job_id: str, seq: int, *, states: bool = False) -> AsyncIterator[bytes]:
    """Yield server-sent events after `seq` until the job ends, or the caller's key or session does.

    Between batches it holds no thread and no database session.

    states: also send each change of the job (version, state, stage, progress) as an event `state`. It has no id: a client that
    reconnects gets the current state.
    """
    yield format_sse_event(retry=2000)
    sent_version: int | None = None
    while True:
        try:
            found = await asyncio.to_thread(_read_after, caller.team, job_id, seq, BATCH, caller)
        except NotFound:  # deleted meanwhile, or the caller is no longer admitted
            return
        for event in found.events:
            data = json.dumps({"seq": event.seq, "at": event.at.isoformat(), "data": event.data}, ensure_ascii=False)
            yield format_sse_event(id=str(event.seq), event=event.type, data_str=data)
            seq = event.seq
        if len(found.events) == BATCH:
            continue
        if states and found.version != sent_version:
            sent_version = found.version
            yield format_sse_event(event="state", data_str=json.dumps(found.state, ensure_ascii=False))
        if found.over:
            return
        if not await change_poller.changed("job", job_id, found.version, KEEP_ALIVE_SECONDS):
            yield format_sse_event(comment="still here")
