"""Problems: every error that a caller can cause has a code, a status, a cause and a remedy (exception_handlers.py maps them).

docs/errors.md has a paragraph for each code; a test keeps the two in step.
"""

import errno
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from app.core import patterns
from compression.schema.errors import CompressionError
from compression.schema.extras import pip_install

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Problem(Exception):
    """Base of all problem documents (RFC 9457)."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    remedy: ClassVar[str] = "Read the cause."
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        cause: str,
        *,
        param: str | None = None,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(cause)
        self.facts = facts or {}
        """Extra members of the document (RFC 9457, section 3.2)."""
        self.cause, self.param = cause, param
        self.all_headers = {**self.headers, **(headers or {})}
        self.remedy_text = remedy or self.remedy


def _problem(
    status: int, code: str, name: str, meaning: str, remedy: str, headers: Mapping[str, str] | None = None
) -> type[Problem]:
    """Create a kind of problem. The OpenAPI document has its name; its meaning is the title of each answer."""
    members = {"status": status, "code": code, "remedy": remedy, "headers": headers or {}}
    return type(name, (Problem,), {"__doc__": meaning, "__module__": __name__, **members})


# A table: status, code and name; when it happens; what to do.
# fmt: off
InvalidRequest = _problem(422, "invalid_request", "InvalidRequest",
    "A field of the body, the path or the query is missing, unknown or out of range.",
    "Correct the named field; /openapi.json shows the schema.")
InvalidRecipe = _problem(422, "invalid_recipe", "InvalidRecipe",
    "The recipe has an unknown key or a value out of range.",
    "Correct the named key; GET /v1/recipes shows every key with its range.")
Unauthorized = _problem(401, "unauthorized", "Unauthorized",
    "The request has no key, or the key is unknown, revoked or expired.",
    "Send `Authorization: Bearer lathe_<id>_<secret>`. `lathe up` keeps its key in client.json; `lathe keys create NAME` "
    "creates one by a key that works; without any, the operator runs `python -m app.bootstrap --key NAME` on the server.",
    {"WWW-Authenticate": "Bearer"})
ReadOnlyKey = _problem(403, "read_only_key", "ReadOnlyKey",
    "The key is read-only.",
    "Use a key of scope `write`, or `admin` for keys; an admin of the team creates one: "
    "`lathe keys create NAME --scope write`.")
InsufficientScope = _problem(403, "insufficient_scope", "InsufficientScope",
    "The key's scope does not allow this.",
    "Use a key of the scope that the cause names; an admin of the team creates one: `lathe keys create NAME --scope SCOPE`.")
CsrfFailed = _problem(403, "csrf_failed", "CsrfFailed",
    "A browser sent a change without its session's CSRF token, or from another site's page.",
    "Reload the page and repeat; scripts send a key in Authorization and need no token.")
NotFound = _problem(404, "not_found", "NotFound",
    "The object does not exist, or belongs to another team.",
    "Check the id; the list of the same path shows what exists.")
MethodNotAllowed = _problem(405, "method_not_allowed", "MethodNotAllowed",
    "The path does not support this method.",
    "Use one of the methods in the Allow header.")
NotReady = _problem(409, "not_ready", "NotReady",
    "The model or dataset cannot be used as it is.",
    "Upload every file, POST …/complete and wait for the state `ready`; a rejected one says why in `reasons`, "
    "and is created anew.")
IncompleteUpload = _problem(409, "incomplete_upload", "IncompleteUpload",
    "Some files of the manifest have no bytes yet, or some of its pages were not sent.",
    "PUT the named files, then POST …/complete again.")
AlreadySealed = _problem(409, "already_complete", "AlreadySealed",
    "The upload is complete; its files cannot change any more.",
    "Create a new model or dataset for other files.")
OffsetMismatch = _problem(409, "upload_offset_mismatch", "OffsetMismatch",
    "The part does not start where the stored bytes end.",
    "HEAD the file, and continue at the Upload-Offset of the answer.")
InUse = _problem(409, "in_use", "InUse",
    "An unfinished job still needs it.",
    "Cancel the named jobs or wait for them, then delete again.")
WrongState = _problem(409, "wrong_state", "WrongState",
    "The job's state does not allow this.",
    "GET the job to see its state.")
LeaseLost = _problem(409, "lease_lost", "LeaseLost",
    "The profile is no longer with this claim of the device: the device was silent too long, or it has ended.",
    "Stop measuring, and claim the next one.")
NoRemedy = _problem(409, "no_remedy", "NoRemedy",
    "No change of the recipe is known to fix this job.",
    "Read the job's error, or the notes of its report; change what they name, and submit it as a new job.")
AlreadyRotated = _problem(409, "already_rotated", "AlreadyRotated",
    "The key has already been replaced by another.",
    "Rotate the new key, or revoke this one.")
NameTaken = _problem(409, "name_taken", "NameTaken",
    "Another team, or another device of the team, has this name.",
    "Choose another name; `lathe teams ls` and `lathe device ls` list the existing ones.")
OwnTeam = _problem(409, "own_team", "OwnTeam",
    "A team cannot close itself: nobody could undo it.",
    "Revoke the keys that nobody needs instead.")
ReportNotReady = _problem(404, "report_not_ready", "ReportNotReady",
    "The job has no report yet, or ended without one.",
    "Wait for the state `succeeded`; the job has the rows of finished stages.")
ChecksumMismatch = _problem(422, "checksum_mismatch", "ChecksumMismatch",
    "The bytes differ from the manifest's hash.",
    "Hash the file again, and upload a complete copy.")
SizeMismatch = _problem(422, "size_mismatch", "SizeMismatch",
    "The number of bytes differs from the manifest.",
    "Upload exactly the file that the manifest names.")
TooManyParts = _problem(422, "too_many_parts", "TooManyParts",
    "The file has too many parts.",
    "Send the file again with PUT, or in parts of at least 16 MiB.")
TooLarge = _problem(413, "too_large", "TooLarge",
    "The body is larger than this service accepts.",
    "Send less; the limits are LATHE_MAX_BODY_BYTES and LATHE_MAX_FILE_BYTES.")
IdempotencyConflict = _problem(422, "idempotency_key_reused", "IdempotencyConflict",
    "The Idempotency-Key was used before with another body.",
    "Use a new key for a new request.")
RangeNotSatisfiable = _problem(416, "range_not_satisfiable", "RangeNotSatisfiable",
    "The Range is outside the file.",
    "Request bytes within the size in Content-Range.")
StorageFull = _problem(507, "storage_full", "StorageFull",
    "The storage has too little space for this upload, or the database's disk is full.",
    "Delete models, datasets or jobs that nobody needs, or enlarge the storage.")
QuotaExceeded = _problem(403, "quota_exceeded", "QuotaExceeded",
    "The team has reached its limit of jobs, of waiting profiles, of files or of worker hours.",
    "`quota` says what frees it; GET /v1/quotas shows all limits, which the operator can raise.")
BytesQuotaExceeded = _problem(507, "bytes_quota_exceeded", "BytesQuotaExceeded",
    "The team has reached its limit of stored, declared or incoming bytes.",
    "Delete models, datasets or jobs that the team no longer needs; GET /v1/quotas shows all limits.")
RateLimited = _problem(429, "rate_limited", "RateLimited",
    "This key or address has sent too many requests.",
    "Repeat the request after Retry-After seconds; RateLimit shows what is left.")
TooManyStreams = _problem(429, "too_many_streams", "TooManyStreams",
    "The key or the team has reached its limit of open event streams.",
    "Close a stream that nobody reads, or poll with `Prefer: wait=30`.",
    {"Retry-After": "10"})
Unavailable = _problem(503, "unavailable", "Unavailable",
    "The database or the storage does not answer, or too many writers wait (SQLite).",
    "Send the request again in a moment, with the same Idempotency-Key.",
    {"Retry-After": "2"})
MalformedRequest = _problem(400, "malformed_request", "MalformedRequest",
    "The bytes are not an HTTP/1.1 request, or an ambiguous one.",
    "Send it with an HTTP library; end each line of the headers with CR LF.")
RequestTimeout = _problem(408, "request_timeout", "RequestTimeout",
    "The request did not arrive completely in time.",
    "Send it again without pauses; the limits are LATHE_HEADER_SECONDS and LATHE_IDLE_SECONDS.")
TooManyConnections = _problem(503, "too_many_connections", "TooManyConnections",
    "The service, or this address, has reached its limit of connections.",
    "Close unused connections, reuse open ones, and repeat the request after Retry-After seconds.",
    {"Retry-After": "5"})
Deleted = _problem(410, "deleted", "Deleted",
    "The object that this Idempotency-Key created has been deleted.",
    "Send the request with a new Idempotency-Key to create it again.")
NothingToTry = _problem(409, "nothing_to_try", "NothingToTry",
    "The job's models cannot predict here.",
    "Download the artifacts; the README of each shows how to open it.")
TooManyTries = _problem(429, "too_many_tries", "TooManyTries",
    "The team has requested too many predictions at once.",
    "Wait for the answers, and repeat the request after Retry-After seconds.",
    {"Retry-After": "10"})
NoTables = _problem(409, "no_tables", "NoTables",
    "The job has no error tables that other targets could be answered from.",
    "Submit a job with the recipe's `prune.search`, for example solver: its tables are kept until it is deleted.")
NoAnswer = _problem(422, "no_answer", "NoAnswer",
    "The solver had found no widths when its time was over.",
    "Name fewer targets, or only widths in the axes of the job's recipe; a job's own solver has 300 seconds.")
NoSolver = _problem(501, "no_solver", "NoSolver",
    "The service cannot solve for targets: scipy is not installed beside it.",
    f"Whoever runs the service adds it: {pip_install('api')}.")
TooManyTargets = _problem(429, "too_many_targets", "TooManyTargets",
    "The service is answering as many targets as it can at once.",
    "Repeat the request after Retry-After seconds.",
    {"Retry-After": "2"})
TooManyLinks = _problem(409, "too_many_links", "TooManyLinks",
    "The job has reached its limit of share links.",
    "Revoke those that nobody needs: DELETE /v1/jobs/{id}/share/{share_id}.")
InternalError = _problem(500, "internal_error", "InternalError",
    "A bug of ours; nothing was changed.",
    "Report it with the request_id; the log has the rest.")
# fmt: on


ALL_PROBLEMS: tuple[type[Problem], ...] = tuple(Problem.__subclasses__())
"""Every problem that has its own code, for docs/errors.md and its test."""


def field_path(location: tuple[int | str, ...]) -> str:
    """Name a field as the caller wrote it: `recipe.prune.ratio`, without FastAPI's leading 'body'."""
    parts = [str(part) for part in location]
    return ".".join(parts[1:] if parts and parts[0] in {"body", "query", "path", "header"} else parts)


def _describe(error: ErrorDetails) -> str:
    """Return one of pydantic's errors in words that name its field."""
    place, kind, said = field_path(error["loc"]), error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']}, at character {error['loc'][-1]}"
    if error["loc"] == ("body",):
        if kind == "missing":
            return "the request has no body"
        unread = isinstance(error["input"], bytes)
        return f"the body was {'not sent as' if unread else 'no object of'} JSON" if kind in _NOT_READ else said
    if kind == "extra_forbidden":
        said = "there is no such key"
    elif kind == "string_pattern_mismatch":
        said = patterns.describe(error["ctx"]["pattern"])
    return f"{place}: {said}" if place else said


_NOT_READ = ("model_attributes_type", "model_type", "dict_type")


def describe_errors(errors: list[ErrorDetails]) -> tuple[str, str | None]:
    """Return (cause that names every field, path of the first field) of pydantic's errors; no path if no field is at fault."""
    first = errors[0]
    path = None if first["type"] == "json_invalid" else field_path(first["loc"])
    return "; ".join(_describe(error) for error in errors[:10]), path or None


def invalid_request(errors: list[ErrorDetails]) -> Problem:
    """Return the problem that names each wrong field of a request, or what is wrong with its body as a whole."""
    cause, param = describe_errors(errors)
    remedy = None if param else "Send a JSON object with `Content-Type: application/json`; /openapi.json shows its schema."
    return InvalidRequest(cause, param=param, remedy=remedy)


def recipe_problem(error: ValidationError, prefix: str) -> Problem:
    """Return the problem that names the wrong key of a recipe."""
    cause, param = describe_errors(error.errors())
    return InvalidRecipe(cause, param=f"{prefix}.{param}" if param else prefix)


def problem_body(problem: Problem, request_id: str | None) -> bytes:
    """Serialize a problem as JSON (RFC 9457)."""
    body = {
        "type": f"/docs/errors#{problem.code}",
        "title": (type(problem).__doc__ or problem.code).split("\n", 1)[0],
        "status": problem.status,
        "detail": f"{problem.cause} — {problem.remedy_text}",
        "code": problem.code,
        "cause": problem.cause,
        "remedy": problem.remedy_text,
        "param": problem.param,
        "request_id": request_id,
        **problem.facts,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wants_page(request: Request) -> bool:
    """Return whether a browser asks for a page: programs ask below /v1, and their Accept names no HTML."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")


def problem_response(problem: Problem, request: Request) -> Response:
    """Return a response of type application/problem+json; for a browser, the page that the application's `error_page` makes."""
    state = request.scope.setdefault("state", {})
    state["problem"] = problem.code
    request_id = state.get("request_id")
    if _wants_page(request) and (page := getattr(request.app.state, "error_page", None)) is not None:
        shown: Response = page(request, problem)
        return shown
    headers = {**problem.all_headers, "X-Request-Id": str(request_id)}
    return Response(problem_body(problem, request_id), problem.status, headers, media_type="application/problem+json")


def compression_problem(error: CompressionError) -> Problem:
    """Return the engine's error about a request as a 422 with the engine's own code."""
    kind = type(type(error).__name__, (Problem,), {"status": 422, "code": error.code, "__doc__": type(error).__doc__})
    problem: Problem = kind(error.cause, param=error.param, remedy=error.remedy_text)
    return problem
