"""Maps each exception that routes raise to its problem document."""

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from app.core.errors import (
    NO_ROOM,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    StorageFull,
    TooLarge,
    Unavailable,
    compression_problem,
    invalid_request,
    problem_response,
)
from compression.schema.errors import CompressionError

log = structlog.get_logger()
PATHS = "Check the address; the page /docs lists all paths of the API, and /openapi.json describes them to programs."


def is_disk_full(error: DBAPIError) -> bool:
    """Return whether a database failed because its disk is full: SQLITE_FULL, or PostgreSQL's 53100."""
    return getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(error.orig, "sqlstate", "") == "53100"


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return the methods of the request's path."""
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.router.routes)
    ]


def log_bug(error: Exception) -> Problem:
    """Log an unexpected exception, and return the problem that its caller sees."""
    log.error("internal_error", exc_info=error)
    return InternalError("an unexpected error occurred")


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return problem_response(error, request)

    @app.exception_handler(CompressionError)
    async def _compression(request: Request, error: CompressionError) -> Response:
        return problem_response(compression_problem(error), request)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return problem_response(invalid_request(list(error.errors())), request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        path, allowed = request.url.path[:200], ", ".join(_methods(app, request))
        problems: dict[int, Problem] = {
            NotFound.status: NotFound(f"there is no path {path}", remedy=PATHS),
            MethodNotAllowed.status: MethodNotAllowed(f"{path} supports {allowed}, not {request.method}"),
            TooLarge.status: TooLarge(error.detail),
        }
        answer = problem_response(problems.get(error.status_code) or InvalidRequest(error.detail), request)
        answer.headers.update(error.headers or {})
        if error.status_code == MethodNotAllowed.status:
            answer.headers["Allow"] = allowed
        return answer

    @app.exception_handler(OperationalError)
    async def _database(request: Request, error: OperationalError) -> Response:
        if is_disk_full(error):
            return problem_response(StorageFull("the disk of the database is full"), request)
        log.error("database_unavailable", error=str(error.orig))
        return problem_response(Unavailable("the database does not answer"), request)

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> Response:
        if error.errno in NO_ROOM:
            return problem_response(StorageFull("the disk is full"), request)
        return await _bug(request, error)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        return problem_response(log_bug(error), request)
