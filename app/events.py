"""Reading a job's events: pages by sequence, and a live stream that loses and repeats nothing."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

from fastapi.sse import format_sse_event
from sqlalchemy import select

from app import jobs
from app.db import reading
from app.errors import InvalidRequest, NotFound
from app.models import TERMINAL, Event
from app.paging import decode
from app.schemas import EventOut
from app.watch import KEEP_ALIVE_SECONDS, watcher

BATCH = 200
MOST_SEQ = 2**63 - 1
"""What the databases can compare a sequence number with."""


def page(team: str, job_id: str, after: int, size: int, token: str | None) -> tuple[list[EventOut], str | None]:
    """Return events with a greater seq than `after` (or than the token says), and the next page's token."""
    if token:
        after = _seq(decode(token))
    found, _, _ = _after(team, job_id, after, size + 1)
    more = len(found) > size
    found = found[:size]
    following = base64.urlsafe_b64encode(str(found[-1].seq).encode()).decode().rstrip("=") if more else None
    return found, following


def _seq(text: str) -> int:
    if not text.isdigit() or int(text) > MOST_SEQ:
        raise InvalidRequest("page_token is not one of ours", param="page_token")
    return int(text)


def _after(team: str, job_id: str, seq: int, limit: int) -> tuple[list[EventOut], int, bool]:
    """Return (events, the job's version as of this reading, whether the job is over)."""
    with reading() as session:
        job = jobs.get(session, team, job_id)
        rows = session.scalars(select(Event).where(Event.job_id == job_id, Event.seq > seq).order_by(Event.seq).limit(limit))
        return [EventOut.model_validate(row) for row in rows], job.version, job.state in TERMINAL


async def stream(team: str, job_id: str, seq: int) -> AsyncIterator[bytes]:
    """Write server-sent events from after `seq` until the job is over. Between batches it holds no thread and no session."""
    yield format_sse_event(retry=2000)
    while True:
        try:
            found, version, over = await asyncio.to_thread(_after, team, job_id, seq, BATCH)
        except NotFound:  # deleted since we last looked, so there is nothing left to tell
            return
        for event in found:
            data = json.dumps({"seq": event.seq, "at": event.at.isoformat(), "data": event.data}, ensure_ascii=False)
            yield format_sse_event(id=str(event.seq), event=event.type, data_str=data)
            seq = event.seq
        if len(found) == BATCH:
            continue
        if over:
            return
        if not await watcher.changed("job", job_id, version, KEEP_ALIVE_SECONDS):
            yield format_sse_event(comment="still here")
