"""Errors of `lathe serve` as problem documents (RFC 9457), with the codes of docs/errors.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError
from starlette.responses import Response

from compression.schema.errors import CompressionError


@dataclass(frozen=True)
class Kind:
    """A kind of error that a caller can cause."""

    status: int
    code: str
    title: str
    remedy: str


UNAUTHORIZED = Kind(401, "unauthorized", "The request has no key, or another one.", "Send `Authorization: Bearer KEY`.")
NOT_FOUND = Kind(404, "not_found", "There is no such path.", "POST /v1/predict; GET /healthz, /readyz and /metrics.")
METHOD = Kind(405, "method_not_allowed", "The path does not support this method.", "Use one of the methods in Allow.")
TIMEOUT = Kind(408, "request_timeout", "The body did not arrive completely in time.", "Send it again without pauses.")
TOO_LARGE = Kind(413, "too_large", "The body is larger than this server accepts.", "Send less; --max-body is the limit.")
INVALID = Kind(
    422, "invalid_request", "A field is missing, unknown or out of range.", "Correct the named field; docs/serving.md has them."
)
INTERNAL = Kind(500, "internal_error", "The model could not compute the row.", "Report it with the server's log.")
BUSY = Kind(503, "server_busy", "As many rows wait as may, or the server is ending.", "Repeat the request after Retry-After.")


@dataclass
class Problem(Exception):
    """An error that is answered with a problem document."""

    kind: Kind
    cause: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(problem: Problem) -> Response:
    """Return a response of type application/problem+json."""
    kind = problem.kind
    body = {
        "type": "about:blank",
        "title": kind.title,
        "status": kind.status,
        "detail": f"{problem.cause} — {kind.remedy}",
        "code": kind.code,
        "cause": problem.cause,
        "remedy": kind.remedy,
        "param": problem.param,
    }
    return Response(json.dumps(body, ensure_ascii=False), kind.status, problem.headers, "application/problem+json")


def of_error(error: CompressionError) -> Problem:
    """Return the problem of a row that cannot be read."""
    kind = Kind(422, error.code, (type(error).__doc__ or error.code).split("\n", 1)[0], error.remedy_text)
    return Problem(kind, error.cause, error.param)


def of_fields(error: ValidationError) -> Problem:
    """Return the problem that names the fields of a body that is not as the schema says."""
    said = {"extra_forbidden": "there is no such key"}
    found = [(".".join(map(str, each["loc"])), said.get(each["type"], each["msg"])) for each in error.errors()]
    causes = [f"{name}: {why}" if name else why for name, why in found]
    return Problem(INVALID, "; ".join(causes[:10]), found[0][0] or None)
