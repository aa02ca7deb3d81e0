"""Middleware of every request: its id, a check for NUL, a limit of its body, security headers, and one log line."""

import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.exception_handlers import log_bug
from app.api.protocol import ENDED_WITH
from app.api.raw_responses import SECURITY_HEADERS
from app.core import traces
from app.core.errors import InvalidRequest, TooLarge, problem_response
from app.core.ids import new_id
from app.ops.metrics import count_response
from compression.schema.prediction_request import LARGEST_QUESTION

log = structlog.get_logger()
HSTS_SECONDS = 365 * 24 * 3600
_FILES = re.compile(r"/v1/(models|datasets)/[^/]+/files/")
_TRIES = re.compile(r"/v1/jobs/[^/]+/try")
_RESULTS = re.compile(r"/v1/profiles/[^/]+/result")
LARGEST_RESULT = 8 * 2**20
"""Bytes of a profile with all its layers and samples."""
LARGER = ((_TRIES, LARGEST_QUESTION), (_RESULTS, LARGEST_RESULT))
"""Paths whose bodies may be larger than others."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Gives each request an id (the caller's X-Request-Id if it is valid), binds it to the log, and logs the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _ID.fullmatch(sent) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        waited = "wait" in Headers(scope=scope).get("prefer", "")
        started, began, status = time.perf_counter(), None, 0

        async def answer(message: Message) -> None:
            nonlocal began, status
            if message["type"] == "http.response.start":
                status, began = message["status"], time.perf_counter() - started
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        parent = Headers(scope=scope).get(traces.PARENT)
        with (
            traces.span(scope["method"], parent, request_id=request_id) as span,
            structlog.contextvars.bound_contextvars(request_id=request_id, **traces.trace_fields()),
        ):
            try:
                await self.app(scope, receive, answer)
            finally:
                status = scope["state"].get(ENDED_WITH, status)  # what follows the end of the connection is lost
                took = round((time.perf_counter() - started) * 1000, 1)
                route = count_response(scope, status, began, waited)
                span.set_attributes(f"{scope['method']} {route}", status=status)
                who = _who(scope)
                log.info("request", method=scope["method"], path=_loggable(scope["path"]), status=status, ms=took, **who)


def _who(scope: Scope) -> dict[str, str]:
    """Return key and team of an authenticated request."""
    audited = scope.get("state", {}).get("audited")
    return {"key": audited.key, "team": audited.team} if audited is not None else {}


def _loggable(path: str) -> str:
    """Hide the token of a share link: readers of the log must not be able to open it."""
    return "/share/…" if path.startswith("/share/") else path


class SecurityHeaders:
    """Adds headers that make browsers respect content types and hide our addresses from other sites."""

    def __init__(self, app: ASGIApp, *, over_tls: bool) -> None:
        self.app = app
        self.headers = {**SECURITY_HEADERS, **({"Strict-Transport-Security": f"max-age={HSTS_SECONDS}"} if over_tls else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


class ErrorMiddleware:
    """Answers unexpected exceptions with a 500, inside the middleware that counts, logs and adds headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            return  # nobody is left to answer; it is counted as 499
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await problem_response(log_bug(error), Request(scope))(scope, receive, send)


class NulFilter:
    """Rejects addresses with a NUL: no id, path or label contains one, and PostgreSQL accepts none in a query."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            problem = InvalidRequest("the address contains a NUL character")
            await problem_response(problem, Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)


class BodyLimit:
    """Rejects bodies over a limit, declared or not.

    File uploads are exempt: their manifest limits them. Questions to a job's models may hold an image, profiles many layers.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or (scope["method"] in {"PUT", "PATCH"} and _FILES.match(scope["path"])):
            await self.app(scope, receive, send)
            return
        limit = max(self.limit, next((most for path, most in LARGER if path.fullmatch(scope["path"])), 0))
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            problem = TooLarge(f"the body has {declared} bytes; the limit is {limit}")
            await problem_response(problem, Request(scope))(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # The only kind of exception that FastAPI lets through while it reads a body; exception_handlers.py maps it.
                raise HTTPException(TooLarge.status, f"the body is longer than the limit of {limit} bytes")
            return message

        await self.app(scope, bounded, send)
