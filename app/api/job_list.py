"""Lists of jobs: what they are narrowed down by, what each shows beside its own row, and how a list is told of changes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from fastapi.sse import format_sse_event
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, defer, lazyload

from app.accounts.auth import Caller, is_active
from app.api.long_poll import KEEP_ALIVE_SECONDS, change_poller
from app.api.schemas import JobOut, job_out
from app.core.errors import InvalidRequest
from app.core.schemas import LABEL_KEY, TEXT, LabelPair
from app.jobs import queue_forecast, remedies
from app.store.db import reading
from app.store.keyset import decode_token, newest_page
from app.store.models import QUEUED, TERMINAL, ApiKey, Job, Model
from app.store.resources import jobs_using

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
MAX_CONDITIONS = 32
"""Of a kind that a list is narrowed down by: as many labels as a job has. A database takes no condition of any length."""
Labels = Annotated[list[LabelPair] | None, Query(max_length=MAX_CONDITIONS, description="key:value; several must all hold")]
ESCAPE = "\\"
WITHOUT_REPORTS = (defer(Job.report),)
"""Options of a query for many jobs: whole reports are not for lists."""
WITHOUT_ROWS = (*WITHOUT_REPORTS, lazyload(Job.metrics))
"""The same, without their tables."""


@dataclass(frozen=True)
class JobFilter:
    """What a list is narrowed down to; all that is given must hold."""

    state: Annotated[list[State] | None, Query(max_length=MAX_CONDITIONS)] = None
    label: Labels = None
    model: Annotated[str | None, Query(description="As base, student or teacher.")] = None
    search: Annotated[
        str | None,
        Query(max_length=200, pattern=TEXT, description="Part of the name, the id or the owner."),
    ] = None


JobFilterDep = Annotated[JobFilter, Depends()]


def filter_jobs(team: str, wanted: JobFilter) -> Select[Any]:
    """Return the team's jobs that are wanted. Raises InvalidRequest for a label that is none."""
    found = select(Job).where(Job.team_id == team, Job.deleted_at.is_(None))
    if wanted.state:
        found = found.where(Job.state.in_(wanted.state))
    if wanted.model:
        found = found.where(jobs_using(Model, wanted.model))
    for pair in wanted.label or ():
        key, colon, value = pair.partition(":")
        if not colon or not re.fullmatch(LABEL_KEY, key):
            raise InvalidRequest(f"label {pair!r} is not key:value", param="label")
        found = found.where(Job.labels[key].as_string() == value)
    if wanted.search and (words := wanted.search.strip()):
        part = "%" + re.sub(r"([%_\\])", r"\\\1", words) + "%"
        keys = select(ApiKey.id).where(ApiKey.team_id == team, ApiKey.name.ilike(part, escape=ESCAPE))
        found = found.where(or_(Job.name.ilike(part, escape=ESCAPE), Job.id.ilike(part, escape=ESCAPE), Job.key_id.in_(keys)))
    return found


def list_jobs(
    session: Session, team: str, wanted: JobFilter, size: int, token: str | None, *, brief: bool = False
) -> tuple[list[JobOut], str | None]:
    """Return a page of jobs as they are shown, newest first, and the next page's token; the same few queries for any page.

    brief: without their tables and remedies, most of what there is to read of a finished job.
    """
    options = WITHOUT_ROWS if brief else WITHOUT_REPORTS
    rows, following = newest_page(session, filter_jobs(team, wanted).options(*options), Job.id, size, token)
    return show_jobs(session, rows, brief=brief), following


def show_jobs(session: Session, rows: Sequence[Job], *, brief: bool = False) -> list[JobOut]:
    """Show jobs with their place in the queue, owner and headline ratios."""
    ids = [job.id for job in rows if job.state == "succeeded"]
    brought: dict[str, Any] = {}
    if ids:
        brought = dict(session.execute(select(Job.id, Job.report["ratios"]).where(Job.id.in_(ids))).all())
    keys = {job.key_id for job in rows if job.key_id}
    owners: dict[str, str] = {}
    if keys:
        owners = dict(session.execute(select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_(keys))).all())
    places = queue_forecast.find_positions(session, [job for job in rows if job.state == QUEUED])
    return [
        job_out(
            job,
            places.get(job.id),
            owner=owners.get(job.key_id or ""),
            ratios=brought.get(job.id),
            remedies=remedies.list_remedies(job) if job.state in TERMINAL and not brief else (),
            rows=() if brief else None,
        )
        for job in rows
    ]


def _versions(caller: Caller, wanted: JobFilter, size: int, token: str | None) -> tuple[dict[str, int], str] | None:
    """Return (version of each job of a page, the team's newest job); None where the caller is let in no more."""
    with reading() as session:
        if not is_active(session, caller):
            return None
        page = filter_jobs(caller.team, wanted).with_only_columns(Job.id, Job.version)
        if token:
            page = page.where(Job.id < decode_token(token))
        rows = session.execute(page.order_by(Job.id.desc()).limit(size)).all()
        newest = session.scalar(select(Job.id).where(Job.team_id == caller.team).order_by(Job.id.desc()).limit(1))
        return {row.id: row.version for row in rows}, newest or ""


async def stream_jobs(caller: Caller, wanted: JobFilter, size: int, token: str | None) -> AsyncIterator[bytes]:
    """Tell which jobs a page has, and in which version, now and whenever that changes; in between it holds nothing.

    Each event is the whole of it, so one that is lost on a broken line is made up for by the first of the next connection.
    """
    yield format_sse_event(retry=2000)
    told: dict[str, int] | None = None
    while True:
        look = await asyncio.to_thread(_versions, caller, wanted, size, token)
        if look is None:
            return
        found, newest = look
        if found != told:
            told = found
            data = {"jobs": [{"id": job, "version": version} for job, version in found.items()]}
            yield format_sse_event(event="jobs", data_str=json.dumps(data))
        known = {("job", job): version for job, version in found.items()} | {("team", caller.team): newest}
        if not await change_poller.wait_for_any(known, KEEP_ALIVE_SECONDS):
            yield format_sse_event(comment="still here")
