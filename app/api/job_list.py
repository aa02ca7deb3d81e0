"""Lists of jobs: filters, what each entry shows, and the stream of changes."""

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
"""Maximum conditions of one kind, as many as a job has labels; databases limit the length of a condition."""
Labels = Annotated[list[LabelPair] | None, Query(max_length=MAX_CONDITIONS, description="key:value; all given ones must match")]
ESCAPE = "\\"
WITHOUT_REPORTS = (defer(Job.report),)
"""Query options for many jobs: without whole reports."""
WITHOUT_ROWS = (*WITHOUT_REPORTS, lazyload(Job.metrics))
"""Without their rows as well."""


@dataclass(frozen=True)
class JobFilter:
    """Filters of a list; all given ones must match."""

    state: Annotated[list[State] | None, Query(max_length=MAX_CONDITIONS)] = None
    label: Labels = None
    model: Annotated[str | None, Query(description="As base, student or teacher.")] = None
    search: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Part of the name, the id or the owner.")] = (
        None
    )


JobFilterDep = Annotated[JobFilter, Depends()]


def filter_jobs(team: str, wanted: JobFilter) -> Select[Any]:
    """Return the query for the team's matching jobs. Raises InvalidRequest for a malformed label."""
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
    """Return a page of jobs, newest first, and the next page's token, in the same few queries for any page.

    brief: without rows and remedies, the largest part of a finished job.
    """
    options = WITHOUT_ROWS if brief else WITHOUT_REPORTS
    rows, following = newest_page(session, filter_jobs(team, wanted).options(*options), Job.id, size, token)
    return show_jobs(session, rows, brief=brief), following


def show_jobs(session: Session, rows: Sequence[Job], *, brief: bool = False) -> list[JobOut]:
    """Return jobs with their queue position, owner and headline ratios."""
    ids = [job.id for job in rows if job.state == "succeeded"]
    ratios: dict[str, Any] = {}
    if ids:
        ratios = dict(session.execute(select(Job.id, Job.report["ratios"]).where(Job.id.in_(ids))).all())
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
            ratios=ratios.get(job.id),
            remedies=remedies.list_remedies(job) if job.state in TERMINAL and not brief else (),
            rows=() if brief else None,
        )
        for job in rows
    ]


def _versions(caller: Caller, wanted: JobFilter, size: int, token: str | None) -> tuple[dict[str, int], str] | None:
    """Return (version of each job of a page, the team's newest job); None if the caller is no longer admitted."""
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
    """Yield the jobs and versions of a page, now and after each change; in between it holds nothing.

    Each event is complete, so the first event after a reconnect replaces a lost one.
    """
    yield format_sse_event(retry=2000)
    sent: dict[str, int] | None = None
    while True:
        page = await asyncio.to_thread(_versions, caller, wanted, size, token)
        if page is None:
            return
        found, newest = page
        if found != sent:
            sent = found
            data = {"jobs": [{"id": job, "version": version} for job, version in found.items()]}
            yield format_sse_event(event="jobs", data_str=json.dumps(data))
        known = {("job", job): version for job, version in found.items()} | {("team", caller.team): newest}
        if not await change_poller.wait_for_any(known, KEEP_ALIVE_SECONDS):
            yield format_sse_event(comment="still here")
