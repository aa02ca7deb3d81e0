"""The list of jobs, filtered by the query string."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.api import job_list
from app.api.dependencies import ReadDep
from app.api.job_list import JobFilterDep
from app.api.paging import PageToken
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from app.store.models import JOB_STATES

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/jobs")
def jobs(
    request: Request,
    session: ReadDep,
    visitor: VisitorDep,
    wanted: JobFilterDep,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: PageToken = None,
) -> Response:
    """List the jobs; to a script of the page, the list alone."""
    found, following = job_list.list_jobs(session, visitor.team, wanted, page_size, page_token, brief=True)
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "page_token" and value]
    template = "jobs_list.html" if by_htmx(request) else "jobs.html"
    return render(
        request,
        template,
        visitor,
        here="jobs",
        jobs=found,
        wanted=wanted,
        states=JOB_STATES,
        narrowed=bool(wanted.state or wanted.label or wanted.model or wanted.search),
        first=f"/jobs?{urlencode(kept)}" if page_token else None,
        following=f"/jobs?{urlencode([*kept, ('page_token', following)])}" if following else None,
    )
