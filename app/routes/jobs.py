"""/v1/jobs: submit, poll, cancel, retry; what happened and what came out."""

import asyncio
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select

from app import events, forecast, jobs, remedy
from app.db import reading
from app.deps import CallerDep, OnceDep, ReadDep, SessionDep
from app.errors import InvalidRequest, ReportNotReady
from app.models import TERMINAL, Artifact, Job, Model
from app.paging import PageSize, PageToken, newest_first, page
from app.preflight import plan
from app.resources import needing
from app.schemas import LABEL_KEY, JobCreate, JobOut, Page, Retry, artifact_out, job_out
from app.watch import preferred_wait, watcher
from compression.catalog import Preflight
from compression.report import Report

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@router.post("", status_code=202, response_model=JobOut, responses={200: {"model": Preflight}})
def create(body: JobCreate, session: SessionDep, caller: CallerDep, once: OnceDep, validate_only: bool = False) -> Response:
    """Submit a job; 202 is a promise. With `validate_only` nothing is stored and the forecast is answered."""
    if validate_only:
        return JSONResponse(plan(session, caller.team, body)[1].model_dump(mode="json"))

    def submit() -> JobOut:
        job = jobs.submit(session, plan(session, caller.team, body)[0])
        return job_out(job, forecast.place(session, job))

    return once(session, caller, body, 202, submit)


@router.get("", response_model=Page)
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    state: Annotated[list[State] | None, Query()] = None,
    label: Annotated[list[str] | None, Query(description="key:value; several must all hold")] = None,
    model: Annotated[str | None, Query(description="As base, student or teacher.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page:
    """List jobs, newest first."""
    query = select(Job).where(Job.team_id == caller.team, Job.deleted_at.is_(None))
    if state:
        query = query.where(Job.state.in_(state))
    if model:
        query = query.where(needing(Model, model))
    for pair in label or ():
        key, colon, value = pair.partition(":")
        if not colon or not re.fullmatch(LABEL_KEY, key):
            raise InvalidRequest(f"label {pair!r} is not key:value", param="label")
        query = query.where(Job.labels[key].as_string() == value)
    rows, token = newest_first(session, query, Job.id, page_size, page_token)
    return page([job_out(row) for row in rows], token, request, response)


def _read(team: str, job_id: str) -> JobOut:
    with reading() as session:
        job = jobs.get(session, team, job_id)
        return job_out(job, forecast.place(session, job))


@router.get("/{job_id}", response_model=JobOut)
async def show(
    job_id: str,
    caller: CallerDep,
    prefer: Annotated[str | None, Header()] = None,
    version: Annotated[
        int | None, Query(description="What you know; with `Prefer: wait` the answer comes when it changed.")
    ] = None,
) -> JobOut:
    """Show a job. `Prefer: wait=30` answers when something changed, or after 30 seconds."""
    job = await asyncio.to_thread(_read, caller.team, job_id)
    seconds = preferred_wait(prefer)
    if seconds and job.state not in TERMINAL and version in {None, job.version}:
        await watcher.changed("job", job_id, job.version, seconds)
        job = await asyncio.to_thread(_read, caller.team, job_id)
    return job


@router.post("/{job_id}/cancel", status_code=202, response_model=JobOut)
def cancel(job_id: str, session: SessionDep, caller: CallerDep) -> JobOut:
    """Cancel a job: a waiting one at once, a running one within seconds."""
    return job_out(jobs.cancel(session, caller.team, job_id))


@router.post("/{job_id}/retry", status_code=202, response_model=JobOut)
def retry(job_id: str, session: SessionDep, caller: CallerDep, once: OnceDep, body: Retry | None = None) -> Response:
    """Submit the same request again, as a new job with `retry_of`; if asked to, with the remedy applied."""
    again = remedy.retry if body and body.remedy else jobs.retry
    return once(session, caller, body, 202, lambda: job_out(again(session, caller.team, job_id)))


@router.delete("/{job_id}", status_code=204)
def delete(job_id: str, session: SessionDep, caller: CallerDep) -> None:
    """Delete a job that is over, and free its bytes."""
    jobs.remove(session, caller.team, job_id)


@router.get("/{job_id}/events", response_model=Page, responses={200: {"content": {"text/event-stream": {}}}})
async def list_events(
    job_id: str,
    request: Request,
    response: Response,
    caller: CallerDep,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[int | None, Header(ge=0, le=events.MOST_SEQ)] = None,
    after: Annotated[int, Query(ge=0, le=events.MOST_SEQ, description="Only events with a greater seq.")] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 200,
    page_token: PageToken = None,
) -> Any:
    """What happened, oldest first: JSON pages, or a live stream with `Accept: text/event-stream`."""
    if "text/event-stream" in accept:
        start = after if last_event_id is None else last_event_id
        await asyncio.to_thread(_read, caller.team, job_id)  # 404 before the stream begins
        stream = events.stream(caller.team, job_id, start)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    found, token = await asyncio.to_thread(events.page, caller.team, job_id, after, page_size, page_token)
    return page(found, token, request, response)


@router.get("/{job_id}/artifacts", response_model=Page)
def list_artifacts(job_id: str, session: ReadDep, caller: CallerDep) -> Page:
    """What can be downloaded, in the order in which it was made."""
    job = jobs.get(session, caller.team, job_id)
    rows = session.scalars(select(Artifact).where(Artifact.job_id == job.id).order_by(Artifact.id))
    return Page(items=[artifact_out(row) for row in rows])


@router.get("/{job_id}/report", response_model=Report)
def report(job_id: str, session: ReadDep, caller: CallerDep) -> Response:
    """The before/after table and all that belongs to it."""
    job = jobs.get(session, caller.team, job_id)
    if job.report is None:
        raise ReportNotReady(f"{job_id} is {job.state}")
    return JSONResponse(job.report)
