"""The OpenAPI document, from which clients are generated: what FastAPI reads from the routes, and each route's problems.

A route names the problems of its own work: `responses=problems(InUse)`. Those that follow from its requirement, its path and
its method are added here, so that every route has them.
"""

import datetime as dt
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import BaseRoute

from app.accounts.auth import SAFE_METHODS, Asks, Requires, find_requirement
from app.accounts.rate_limits import UNLIMITED_PATHS
from app.api.idempotency import Once
from app.core import errors
from app.core.errors import Problem
from app.store.models import READ
from compression.schema.errors import ALL_ERRORS, CompressionError

MEDIA = "application/problem+json"
BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
EVENT_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string", "description": "Server-sent events."}}}
CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
PAGE: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}
RAW_BODY = {"requestBody": {"required": True, "content": BINARY}}
"""`openapi_extra` of a route that reads a raw body."""
RAW_PART = {"requestBody": {"content": BINARY}}
"""Of one whose body may be empty or absent."""
KINDS = "x-problems"
"""Where `problems` puts its codes until they become responses; the document keeps them, for programs."""
_CODES: dict[str, type[Problem] | type[CompressionError]] = {
    **{kind.code: kind for kind in ALL_ERRORS},
    **{kind.code: kind for kind in errors.ALL_PROBLEMS},
}
ALL: tuple[type[Problem], ...] = (
    errors.MalformedRequest,
    errors.RequestTimeout,
    errors.InvalidRequest,
    errors.TooLarge,
    errors.InternalError,
    errors.Unavailable,
    errors.TooManyConnections,
)
"""Possible for every request."""
COUNTED = ("RateLimit", "RateLimit-Policy")
UNCOUNTED = (400, 408)
"""Statuses that are answered before there is a request, so they are never pages."""


class Exhausted(BaseModel):
    """The limit that a request met."""

    name: str
    limit: float
    used: float
    frees: Annotated[str, Field(description="What makes room again.")]
    frees_at: Annotated[dt.datetime | None, Field(description="When that happens by itself; null if it needs action.")]


class ProblemDocument(BaseModel):
    """Why a request was refused (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: Annotated[str, Field(description="Address of the page that explains the code.")]
    title: str
    status: int
    detail: Annotated[str, Field(description="Cause and remedy.")]
    code: Annotated[str, Field(description="Stable; docs/errors.md has a paragraph for each.")]
    cause: str
    remedy: str
    param: Annotated[str | None, Field(description="The field that caused it.")]
    request_id: str | None
    quota: Annotated[Exhausted | None, Field(description="Of a limit that was met.")] = None


def _header(description: str, kind: str = "string", *, always: bool = False) -> dict[str, Any]:
    """always: present in every response that declares it."""
    return {"description": description, "schema": {"type": kind}, **({"required": True} if always else {})}


HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": _header("The request's id in the log; the caller's own if it sent one.", always=True),
    "RateLimit": _header("What is left of each rate limit: `r` requests for `t` seconds."),
    "RateLimit-Policy": _header("Each rate limit: `q` requests in `w` seconds."),
    "Retry-After": _header("Seconds to wait.", "integer"),
    "WWW-Authenticate": _header("`Bearer`.", always=True),
    "Link": _header('The next page, `rel="next"`; absent on the last one.'),
    "Idempotency-Replayed": _header("`true` if this is the stored answer of an earlier request with the same key."),
    "ETag": _header("Names the content; `If-None-Match` with it answers 304.", always=True),
    "Cache-Control": _header("How long the answer may be kept.", always=True),
    "Content-Disposition": _header("The file's name."),
    "Content-Range": _header("Which bytes these are, and of how many.", always=True),
    "Accept-Ranges": _header("`bytes`.", always=True),
    "Repr-Digest": _header("SHA-256 of the whole file (RFC 9530).", always=True),
    "Location": _header("A presigned address of the bytes, which needs no key.", always=True),
    "Upload-Offset": _header("How many bytes of the file have arrived.", "integer", always=True),
    "Upload-Complete": _header("`?1` if the file is complete, else `?0`.", always=True),
    "Upload-Limit": _header("`max-size`: bytes that a file may have.", always=True),
}


def headers(*names: str) -> dict[str, Any]:
    """Return a response's headers as references to their descriptions."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def problems(*kinds: type[Problem] | type[CompressionError]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route's own problems; CompressionError stands for all rules of the engine."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        codes = [each.code for each in ALL_ERRORS] if kind is CompressionError else [kind.code]
        status = 422 if issubclass(kind, CompressionError) else kind.status
        found.setdefault(status, {KINDS: []})[KINDS] += codes
    return found


def _uses(dependant: Dependant, call: object) -> bool:
    return any(below.call is call or _uses(below, call) for below in dependant.dependencies)


def implied_problems(route: APIRoute, method: str) -> Iterator[type[Problem]]:
    """Yield the problems that follow from a route's definition."""
    yield from ALL
    needed, safe = find_requirement(route.dependant), method in SAFE_METHODS
    if route.path not in UNLIMITED_PATHS:
        yield errors.RateLimited
    if needed is not None:
        yield errors.Unauthorized
        yield from _scope_problems(needed, safe=safe)
    if route.dependant.path_params:
        yield errors.NotFound
    if _uses(route.dependant, Once):
        yield from (errors.IdempotencyConflict, errors.Deleted)
    if not safe and not isinstance(needed, Asks):
        yield errors.StorageFull


def _scope_problems(needed: Requires, *, safe: bool) -> Iterator[type[Problem]]:
    if not (needed.scope == READ and needed.device):  # such a route admits every scope
        yield errors.InsufficientScope
    if not safe:
        yield errors.CsrfFailed
        if needed.scope != READ:
            yield errors.ReadOnlyKey


def iterate_routes(found: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """Yield all routes, including those of routers."""
    for route in found:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from iterate_routes(getattr(getattr(route, "original_router", None), "routes", []))


def _write(status: int, codes: Sequence[str], *, head: bool, pages: bool) -> dict[str, Any]:
    """Return the response of a status with any of these codes."""
    kinds = [_CODES[code] for code in codes]
    extra = {name for kind in kinds if issubclass(kind, Problem) for name in kind.headers}
    extra |= {"Retry-After"} if status == errors.RateLimited.status else set()
    counted = () if status in UNCOUNTED else COUNTED
    content = {**(PAGE if pages else {}), MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "description": "\n".join(f"`{kind.code}`: {(kind.__doc__ or '').splitlines()[0]}" for kind in kinds),
        "headers": headers("X-Request-Id", *counted, *sorted(extra)),
        KINDS: list(codes),
        **({} if head else {"content": content}),
    }


def _name(codes: Sequence[str], *, head: bool, pages: bool) -> str:
    """Return a shared response's name, made of its problems; the engine's rules count as one."""
    names = dict.fromkeys(kind.__name__ if issubclass(kind := _CODES[code], Problem) else "CompressionError" for code in codes)
    return "".join(names) + ("Head" if head else "") + ("Page" if pages else "")


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema without null: a header or query parameter may be absent, but cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


def _complete(route: APIRoute, method: str, operation: dict[str, Any], shared: dict[str, Any]) -> None:
    """Complete an operation: its problems, and the headers of its other responses."""
    answers: dict[str, dict[str, Any]] = operation["responses"]
    if KINDS not in answers.get("422", {}):
        answers.pop("422", None)  # FastAPI's own form, which is never sent
    codes: dict[int, list[str]] = {}
    for kind in implied_problems(route, method):
        codes.setdefault(kind.status, []).append(kind.code)
    for own in [key for key, answer in answers.items() if KINDS in answer]:
        codes.setdefault(int(own), []).extend(answers.pop(own)[KINDS])
    usual = ["X-Request-Id", *([] if route.path in UNLIMITED_PATHS else COUNTED)]
    usual += ["Idempotency-Replayed"] if _uses(route.dependant, Once) else []
    usual += ["Link"] if any(field.alias == "page_token" for field in route.dependant.query_params) else []
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    head = method == "HEAD"
    for answer in answers.values():
        answer["headers"] = {**answer.get("headers", {}), **headers(*usual)}
        if head:
            answer.pop("content", None)
    for status, found in sorted(codes.items()):
        pages = getattr(route, "errors_are_pages", False) and status not in UNCOUNTED
        found = list(dict.fromkeys(found))
        written = _write(status, found, head=head, pages=pages)
        if (form := answers.get(str(status))) is not None:  # the route itself answers with this status, in its own form
            answers[str(status)] = {**written, "content": {**form["content"], **written["content"]}}
            continue
        name = _name(found, head=head, pages=pages)
        shared[name] = written
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}


def _describe_defaults(part: Any) -> None:
    """Describe object defaults in words, because client generators do not support objects as defaults."""
    if isinstance(part, dict):
        if isinstance(part.get("default"), dict) and part["default"] and ("anyOf" in part or "$ref" in part):
            default = f"Default: `{json.dumps(part.pop('default'))}`"
            part["description"] = f"{part['description']} {default}" if "description" in part else default
        part = list(part.values())
    if isinstance(part, list):
        for below in part:
            _describe_defaults(below)


def complete_document(document: dict[str, Any], app: FastAPI) -> dict[str, Any]:
    """Complete FastAPI's document with what all routes have in common."""
    shared: dict[str, Any] = {}
    paths = document["paths"]
    for route in iterate_routes(app.routes):
        for method in route.methods or ():
            operation = paths.get(route.path_format, {}).get(method.lower())
            if operation is not None and route.include_in_schema:
                _complete(route, method, operation, shared)
    components = document["components"]
    schemas: dict[str, Any] = components["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = ProblemDocument.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"), Problem=problem)
    _describe_defaults(schemas)
    components["responses"], components["headers"] = dict(sorted(shared.items())), HEADERS
    return document


def operation_id(route: APIRoute) -> str:
    """Return an operation's id, after which a generated client names its function: `jobs_cancel`."""
    return f"{route.tags[0] if route.tags else 'page'}_{route.name.strip('_')}"


class DocumentedApi(FastAPI):
    """An application with a complete OpenAPI document."""

    _lock = threading.Lock()

    def openapi(self) -> dict[str, Any]:
        """Return the document; it is built once."""
        with self._lock:
            known = self.openapi_schema
            found = super().openapi()
            return found if found is known else complete_document(found, self)
