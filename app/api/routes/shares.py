"""/v1/jobs/{id}/share and /v1/shares: links to a report for people without a key."""

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from app.accounts import audit, shares
from app.api.dependencies import CallerDep, ReadDep, SessionDep, WriterDep
from app.api.openapi import problems
from app.api.paging import PageSize, PageToken, answer_page
from app.core.errors import ReportNotReady, TooManyLinks
from app.core.public_url import public_origin
from app.core.schemas import Body, Out, Page
from app.store.models import ShareLink

router = APIRouter(tags=["share"])
DAY = 24 * 3600


class ShareCreate(Body):
    """A share link to create."""

    expires_in: Annotated[int, Field(ge=60, le=90 * DAY, description="Seconds from now.")] = 7 * DAY


class ShareOut(Out):
    """A share link; `url` is present once, in the answer that created it. The link ends with its `key` at the latest."""

    id: str
    job: str
    key: str | None
    created_at: dt.datetime
    expires_at: dt.datetime
    url: str | None = None


def _out(row: ShareLink, url: str | None = None) -> ShareOut:
    return ShareOut(id=row.id, job=row.job_id, key=row.key_id, created_at=row.created_at, expires_at=row.expires_at, url=url)


@router.post(
    "/v1/jobs/{job_id}/share", status_code=201, response_model=ShareOut, responses=problems(ReportNotReady, TooManyLinks)
)
def create(job_id: str, body: ShareCreate, request: Request, session: SessionDep, caller: WriterDep) -> ShareOut:
    """Create a link that shows this job's report without a key, until it expires.

    The link is shown in this answer and never again, so this POST takes no Idempotency-Key: no replay is stored.
    """
    row, token = shares.create(session, caller, job_id, body.expires_in)
    audit.set_object(request, row.id)
    return _out(row, f"{public_origin(request)}/share/{token}")


@router.get("/v1/jobs/{job_id}/share")
def list_(job_id: str, session: ReadDep, caller: CallerDep) -> Page[ShareOut]:
    """List the job's active links, newest first, without their addresses."""
    return Page(items=[_out(row) for row in shares.list_job_links(session, caller.team, job_id)])


@router.delete("/v1/jobs/{job_id}/share/{share_id}", status_code=204, response_class=Response)
def revoke(job_id: str, share_id: str, session: SessionDep, caller: WriterDep) -> None:
    """Revoke a link at once."""
    shares.revoke(session, caller.team, job_id, share_id)


@router.get("/v1/shares", response_model=Page[ShareOut])
def list_of_team(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[ShareOut]:
    """List all active links of the team's jobs, newest first, without their addresses."""
    rows, token = shares.list_links(session, caller.team, page_size, page_token)
    return answer_page([_out(row) for row in rows], token, request, response)
