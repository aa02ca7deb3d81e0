"""Pages of lists: the parameters, and the answer with the next page's Link."""

from typing import Annotated, TypeVar

from fastapi import Query, Request, Response

from app.core.public_url import next_page_link
from app.core.schemas import Page

T = TypeVar("T")
PageSize = Annotated[int, Query(ge=1, le=200)]
PageToken = Annotated[str | None, Query(max_length=200)]


def answer_page(items: list[T], token: str | None, request: Request, response: Response) -> Page[T]:
    """Return a page, and set the Link header of the next one."""
    if token:
        response.headers["Link"] = next_page_link(request, token)
    return Page(items=items, next_page_token=token)
