"""/v1/jobs: submit, poll, cancel and retry jobs; their events, artifacts and reports."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from app.api import job_events
from app.api.dependencies import CallerDep, DeviceDep, OnceDep, ReadDep, SessionDep, SubmitterDep, WriterDep
from app.api.job_cache import read_job
from app.api.job_list import JobFilter, JobFilterDep, filter_jobs, list_jobs, show_jobs, stream_jobs
from app.api.long_poll import change_poller, parse_wait
from app.api.openapi import EVENT_STREAM, problems
from app.api.paging import PageSize, PageToken, answer_page
from app.api.schemas import ArtifactOut, EventOut, JobOut, JobRetry, artifact_out
from app.core.errors import (
    BytesQuotaExceeded,
    InvalidRecipe,
    NoRemedy,
    NotFound,
    NotReady,
    QuotaExceeded,
    ReportNotReady,
    TooManyStreams,
    WrongState,
)
from app.core.event_streams import CountedStream
from app.core.schemas import Page
from app.core.settings import get_settings
from app.jobs import jobs, remedies
from app.jobs.preflight import forecast, plan, refuse_percent
from app.jobs.profiles import given_to
from app.jobs.request import JobCreate
from app.store.db import reading
from app.store.keyset import decode_token
from app.store.models import Artifact
from app.store.quotas import streams_limit
from compression.planning.preflight import Preflight
from compression.schema.errors import CompressionError
from compression.schema.report.report import Report

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
UNKEPT = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of a stream: caches do not store it, and nginx does not buffer it."""
SUBMITTING = problems(NotFound, NotReady, QuotaExceeded, BytesQuotaExceeded, InvalidRecipe, CompressionError)
RETRYING = problems(NotReady, WrongState, NoRemedy, QuotaExceeded, BytesQuotaExceeded, InvalidRecipe, CompressionError)
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": EVENT_STREAM}, **problems(TooManyStreams)}


@router.post("", status_code=202, response_model=JobOut, responses={200: {"model": Preflight}, **SUBMITTING})
def create(body: JobCreate, session: SessionDep, caller: SubmitterDep, once: OnceDep, validate_only: bool = False) -> Response:
    """Submit a job; 202 is a promise. With `validate_only` nothing is stored and the forecast is returned."""
    if validate_only:
        return JSONResponse(forecast(session, caller.team, body).model_dump(mode="json"))

    def submit() -> JobOut:
        refuse_percent(body.targets)
        job = plan(session, caller.team, body)[0]
        job.key_id = caller.key
        return show_jobs(session, [jobs.submit(session, job)])[0]

    return once(session, caller, body, 202, submit)


@router.get("", response_model=Page[JobOut], responses=STREAMED)
async def list_(
    request: Request,
    response: Response,
    caller: CallerDep,
    wanted: JobFilterDep,
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Any:
    """List jobs, newest first. With `Accept: text/event-stream`, stream which jobs the page has, in which version."""
    if "text/event-stream" in accept:
        filter_jobs(caller.team, wanted)  # report a bad request before the stream begins
        if page_token:
            decode_token(page_token)
        return await _stream(caller, stream_jobs(caller, wanted, page_size, page_token))
    rows, token = await asyncio.to_thread(_page, caller.team, wanted, page_size, page_token)
    return answer_page(rows, token, request, response)


async def _stream(caller: CallerDep, content: AsyncIterator[bytes]) -> CountedStream:
    """Open a stream. Raises TooManyStreams if the key or its team has as many as it may."""
    most = await asyncio.to_thread(streams_limit, caller.team)
    return CountedStream(content, {caller.key: get_settings().streams_per_key, caller.team: most}, UNKEPT)


def _page(team: str, wanted: JobFilter, size: int, token: str | None) -> tuple[list[JobOut], str | None]:
    with reading() as session:
        return list_jobs(session, team, wanted, size, token)


@router.get("/{job_id}", response_model=JobOut)
async def show(
    job_id: str,
    caller: CallerDep,
    prefer: Annotated[str | None, Header()] = None,
    version: Annotated[
        int | None, Query(description="The version you have; with `Prefer: wait` the answer comes when it changes.")
    ] = None,
) -> Response:
    """Show a job. `Prefer: wait=30` answers when something changed, or after 30 seconds."""
    job = await asyncio.to_thread(read_job, caller.team, job_id)
    seconds = parse_wait(prefer)
    if seconds and not job.over and version in {None, job.version}:
        await change_poller.changed("job", job_id, job.version, seconds)
        job = await asyncio.to_thread(read_job, caller.team, job_id)
    return Response(job.body, media_type="application/json")


@router.post("/{job_id}/cancel", status_code=202, response_model=JobOut, responses=problems(WrongState))
def cancel(job_id: str, session: SessionDep, caller: WriterDep) -> JobOut:
    """Cancel a job: a waiting one at once, a running one within seconds."""
    return show_jobs(session, [jobs.cancel(session, caller.team, job_id)])[0]


@router.post("/{job_id}/retry", status_code=202, response_model=JobOut, responses=RETRYING)
def retry(job_id: str, session: SessionDep, caller: WriterDep, once: OnceDep, body: JobRetry | None = None) -> Response:
    """Submit the same request again as a new job with `retry_of`, with the named `remedies` of the old job applied."""
    keys, profile = (body.remedies, body.profile) if body else ([], None)

    def again() -> JobOut:
        return show_jobs(session, [remedies.retry(session, caller.team, job_id, keys, caller.key, profile)])[0]

    return once(session, caller, body, 202, again)


@router.delete("/{job_id}", status_code=204, response_class=Response, responses=problems(WrongState))
def delete(job_id: str, session: SessionDep, caller: WriterDep) -> None:
    """Delete a job that has ended, and free its bytes."""
    jobs.delete_job(session, caller.team, job_id)


@router.get("/{job_id}/events", response_model=Page[EventOut], responses=STREAMED)
async def list_events(
    job_id: str,
    request: Request,
    response: Response,
    caller: CallerDep,
    wanted: Annotated[job_events.EventQuery, Depends()],
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
    page_size: Annotated[int, Query(ge=1, le=1000)] = 200,
    page_token: PageToken = None,
) -> Any:
    """List what happened, oldest first: JSON pages, or a live stream with `Accept: text/event-stream`."""
    if "text/event-stream" in accept:
        start = wanted.after if wanted.last_event_id is None else wanted.last_event_id
        await asyncio.to_thread(read_job, caller.team, job_id)  # 404 before the stream begins
        return await _stream(caller, job_events.stream_events(caller, job_id, start, states=wanted.states))
    found, token = await asyncio.to_thread(job_events.list_events, caller.team, job_id, wanted.after, page_size, page_token)
    return answer_page(found, token, request, response)


@router.get("/{job_id}/artifacts")
def list_artifacts(job_id: str, session: ReadDep, caller: DeviceDep) -> Page[ArtifactOut]:
    """List what can be downloaded, in the order of creation."""
    job = jobs.get(session, caller.team, job_id)
    readable = (Artifact.job_id == job.id, *given_to(caller.device))
    rows = session.scalars(select(Artifact).where(*readable).order_by(Artifact.id))
    return Page(items=[artifact_out(row) for row in rows])


@router.get("/{job_id}/report", response_model=Report, responses=problems(ReportNotReady))
def report(job_id: str, session: ReadDep, caller: CallerDep) -> Response:
    """Show the before/after table and everything that belongs to it."""
    job = jobs.get(session, caller.team, job_id)
    found = jobs.whole_report(job)
    if found is None:
        raise ReportNotReady(f"{job_id} is {job.state}")
    return JSONResponse(found)
