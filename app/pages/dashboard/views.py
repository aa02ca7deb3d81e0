"""What all pages share: the visitor, rendering, security headers and error pages."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

import structlog
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from app.accounts import audit, keys, sessions
from app.accounts.sessions import Visitor
from app.core.errors import InternalError, InvalidRequest, Problem, TooLarge, Unavailable, invalid_request
from app.pages.dashboard import assets, formatting
from app.store.db import reading
from app.store.models import ADMIN, WRITE

log = structlog.get_logger()

# Scripts and styles from our own files alone; nothing inline, so that a name or a log line that got through unescaped is text.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "X-Frame-Options": "DENY"}


@dataclass(frozen=True)
class Entry:
    """An entry of the navigation."""

    name: str
    title: str
    path: str
    for_admins: bool = False


NAVIGATION = (
    Entry("jobs", "Jobs", "/jobs"),
    Entry("new", "New job", "/new"),
    Entry("compare", "Compare", "/compare"),
    Entry("try", "Try it", "/try"),
    Entry("fleet", "Fleet", "/fleet"),
    Entry("keys", "Keys", "/keys"),
    Entry("audit", "Audit", "/audit", for_admins=True),
)


class SignInNeeded(Exception):
    """The request has no valid session."""


def get_visitor(request: Request) -> Visitor:
    """Read the cookie. Raises SignInNeeded."""
    token = sessions.read_cookie(request)
    if token:
        with reading() as session:
            found = sessions.find_visitor(session, token)
        if found is not None:
            keys.record_use(found.key)
            audit.begin_action(request, found.team, found.key, changes=False)
            return found
    raise SignInNeeded


VisitorDep = Annotated[Visitor, Depends(get_visitor)]


MOST_FIELDS, FORM_BYTES = 16, 1 << 14
"""Of a form. Whoever has no key may send one, and the event loop reads it: a mebibyte of fields would hold all else up."""


async def get_form(request: Request) -> dict[str, str]:
    """Return the fields of a urlencoded form, the last of each name. Raises TooLarge, InvalidRequest."""
    body = await request.body()
    if len(body) > FORM_BYTES:
        raise TooLarge(f"the form has {len(body)} bytes; the limit is {FORM_BYTES}")
    try:
        return dict(parse_qsl(body.decode("utf-8", errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise InvalidRequest(f"the form has more than {MOST_FIELDS} fields") from None


FormDep = Annotated[dict[str, str], Depends(get_form)]


@lru_cache
def templates() -> Environment:
    """Return the template environment. Everything is escaped; an undefined name is an error."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(asset=assets.url, navigation=NAVIGATION)
    found.filters.update(formatting.FILTERS)
    return found


def render(
    request: Request, template: str, visitor: Visitor | None = None, *, status: int = 200, here: str = "", **context: Any
) -> HTMLResponse:
    """Render a page; `here` is its entry in the navigation."""
    text = (
        templates()
        .get_template(template)
        .render(
            request=request,
            path=request.url.path,
            visitor=visitor,
            may_write=visitor is not None and visitor.scope in (WRITE, ADMIN),
            may_admin=visitor is not None and visitor.scope == ADMIN,
            here=here,
            **context,
        )
    )
    return HTMLResponse(text, status, HEADERS)


def by_htmx(request: Request) -> bool:
    """Return whether a script requests a part of the page; restoring history needs the whole page."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


def _to_sign_in(request: Request) -> Response:
    if by_htmx(request):
        return Response(status_code=204, headers={"HX-Redirect": "/sign-in"})
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/sign-in?next={quote(asked, safe='')}", 303)


def _error_page(request: Request, problem: Problem) -> Response:
    visitor = None
    try:
        visitor = get_visitor(request)
    except (SignInNeeded, OperationalError):
        log.debug("error_page_without_visitor")
    return problem_page(request, problem, visitor)


def problem_page(request: Request, problem: Problem, visitor: Visitor | None = None) -> Response:
    """Return the page of a problem. Without a visitor nothing is looked up: so it is for requests that reach no route."""
    state = request.scope.setdefault("state", {})
    state["problem"] = problem.code  # for the audit log
    request_id = state.get("request_id")
    title = (type(problem).__doc__ or problem.code).split("\n", 1)[0]
    page = render(
        request, "error.html", visitor, status=problem.status, problem=problem, problem_title=title, request_id=request_id
    )
    page.headers.update(problem.all_headers)
    return page


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    errors_are_pages = True
    """app/api/openapi.py reads it for the OpenAPI schema."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that turns exceptions into pages."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except SignInNeeded:
                return _to_sign_in(request)
            except Problem as problem:
                return _error_page(request, problem)
            except RequestValidationError as error:
                return _error_page(request, invalid_request(list(error.errors())))
            except OperationalError as error:
                log.error("database_unavailable", error=str(error.orig))
                return _error_page(request, Unavailable("the database does not answer"))
            except HTTPException:
                raise
            except Exception as error:
                log.error("internal_error", exc_info=error)
                return _error_page(request, InternalError("an unexpected error occurred"))

        return handled
