"""/v1/compare: finished jobs side by side, as JSON or as CSV."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from app.api import comparison as domain
from app.api.comparison import Comparison
from app.api.dependencies import CallerDep, ReadDep
from app.api.openapi import CSV
from app.api.paging import PageSize, PageToken
from app.core.public_url import next_page_link

router = APIRouter(prefix="/v1/compare", tags=["compare"])


@router.get("", response_model=Comparison, responses={200: {"content": CSV}})
def compare(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    wanted: Annotated[domain.ComparisonFilter, Depends()],
    format: Annotated[Literal["json", "csv"], Query(description="csv: a line a job.")] = "json",  # noqa: A002 (the parameter's name)
    page_size: PageSize = 200,
    page_token: PageToken = None,
) -> Comparison | Response:
    """Compare finished jobs, newest first: what each started with and shipped, the Pareto-best, and how requests differ."""
    found = domain.compare(session, caller.team, wanted, page_size, page_token)
    link = {}
    if found.next_page_token:
        link = {"Link": next_page_link(request, found.next_page_token)}
    if format == "csv":
        named = {"Content-Disposition": 'attachment; filename="lathe-compare.csv"'}
        return Response(domain.as_csv(found), media_type="text/csv; charset=utf-8", headers={**named, **link})
    response.headers.update(link)
    return found
