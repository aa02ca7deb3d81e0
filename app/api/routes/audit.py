"""/v1/audit: the team's audit log, for its admins; as JSON pages or as CSV."""

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from app.accounts import audit
from app.api.dependencies import AdminDep, ReadDep
from app.api.openapi import CSV
from app.api.paging import PageSize, PageToken, answer_page
from app.core.schemas import Out, Page

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class AuditOut(Out):
    """One change, or one that was refused."""

    id: str
    at: dt.datetime
    key: str
    address: Annotated[str | None, Field(description="The client's address, as the server saw it.")]
    action: Annotated[str, Field(description="Noun and verb, as `jobs.cancel`.")]
    object: Annotated[str | None, Field(description="The object that was changed or created.")]
    outcome: Annotated[str, Field(description="`ok`, or the code of the problem that refused it.")]
    request_id: str | None


@router.get("", response_model=Page[AuditOut], responses={200: {"content": CSV}})
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: AdminDep,
    wanted: Annotated[audit.AuditFilter, Depends()],
    format: Annotated[Literal["json", "csv"], Query(description="csv: a line a row.")] = "json",  # noqa: A002
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[AuditOut] | Response:
    """List what the team's keys changed or were refused, newest first."""
    rows, token = audit.list_entries(session, caller.team, page_size, page_token, wanted)
    found = answer_page([AuditOut(**audit.entry_fields(row)) for row in rows], token, request, response)
    if format == "json":
        return found
    named = {"Content-Disposition": 'attachment; filename="lathe-audit.csv"', **response.headers}
    return Response(audit.as_csv(rows), media_type="text/csv; charset=utf-8", headers=named)
