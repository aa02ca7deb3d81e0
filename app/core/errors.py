"""Problems: every error that a caller can cause has a code, a status, a cause and a remedy (exception_handlers.py maps them).

docs/errors.md has a paragraph a code; a test keeps the two together.
"""

import errno
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from compression.schema.errors import CompressionError

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
        """Members of its own beside the common ones (RFC 9457, section 3.2)."""
        self.cause, self.param = cause, param
        self.all_headers = {**self.headers, **(headers or {})}
        self.remedy_text = remedy or self.remedy


class InvalidRequest(Problem):
    """A field of the body, the path or the query is missing, unknown or out of range."""

    status, code, remedy = 422, "invalid_request", "Correct the named field; /openapi.json shows the schema."


class InvalidRecipe(Problem):
    """The recipe has an unknown key or a value out of range."""

    status, code, remedy = 422, "invalid_recipe", "Correct the named key; GET /v1/recipes shows every key with its range."


class Unauthorized(Problem):
    """No key, or none that is known, not revoked and not expired."""

    status, code = 401, "unauthorized"
    remedy = "Send `Authorization: Bearer lathe_<id>_<secret>`; `lathe keys create` makes a key."
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class ReadOnlyKey(Problem):
    """The key may read and not change."""

    status, code = 403, "read_only_key"
    remedy = "Use a key of scope `write`, or `admin` for keys; an admin of the team makes one: `lathe keys create --scope`."


class InsufficientScope(Problem):
    """The key's scope does not reach so far."""

    status, code = 403, "insufficient_scope"
    remedy = "Use a key of the scope that the cause names; an admin of the team makes one: `lathe keys create --scope`."


class CsrfFailed(Problem):
    """A change that a browser sent without the token of its session, or from another site's page."""

    status, code = 403, "csrf_failed"
    remedy = "Load the page again and repeat; a script sends a key in Authorization and needs no such token."


class NotFound(Problem):
    """There is no such thing, or it belongs to another team."""

    status, code, remedy = 404, "not_found", "Check the id; the list of the same path shows what there is."


class MethodNotAllowed(Problem):
    """The path is known, the method is not."""

    status, code, remedy = 405, "method_not_allowed", "Use one of the methods in the Allow header."


class NotReady(Problem):
    """The model or dataset cannot be used as it is."""

    status, code = 409, "not_ready"
    remedy = "Upload every file, POST …/complete and wait for the state `ready`; a rejected one says why in `reasons`."


class IncompleteUpload(Problem):
    """Some files of the manifest have no bytes yet."""

    status, code, remedy = 409, "incomplete_upload", "PUT the named files, then POST …/complete again."


class AlreadySealed(Problem):
    """The upload is complete; its files do not change any more."""

    status, code, remedy = 409, "already_complete", "Create a new model or dataset for other files."


class OffsetMismatch(Problem):
    """The part does not begin where the bytes that are here end."""

    status, code = 409, "upload_offset_mismatch"
    remedy = "HEAD the file, and go on from the Upload-Offset that it answers."


class InUse(Problem):
    """A job that is not finished still needs it."""

    status, code, remedy = 409, "in_use", "Cancel the named jobs or wait for them, then delete again."


class WrongState(Problem):
    """The job is in a state in which this cannot be done."""

    status, code, remedy = 409, "wrong_state", "GET the job and look at its state."


class NoRemedy(Problem):
    """No change of the recipe is known that would mend this job."""

    status, code = 409, "no_remedy"
    remedy = "Read the job's error, or the notes of its report; change what they name, and submit it as a new job."


class AlreadyRotated(Problem):
    """Another key took this one's place already."""

    status, code, remedy = 409, "already_rotated", "Rotate the key that took its place, or revoke this one."


class NameTaken(Problem):
    """Another team has this name."""

    status, code, remedy = 409, "name_taken", "Choose another name; `lathe teams ls` shows those that there are."


class OwnTeam(Problem):
    """A team does not close itself: nobody would be left who could undo it."""

    status, code, remedy = 409, "own_team", "Close other teams; of your own, revoke the keys that nobody needs."


class ReportNotReady(Problem):
    """The job has no report yet, or ended without one."""

    status, code, remedy = 404, "report_not_ready", "Wait for the state `succeeded`; rows of finished stages are in the job."


class ChecksumMismatch(Problem):
    """The bytes that came are not those that the manifest promised."""

    status, code, remedy = 422, "checksum_mismatch", "Hash the file again, and upload it again from a whole copy."


class SizeMismatch(Problem):
    """More or fewer bytes came than the manifest promised."""

    status, code, remedy = 422, "size_mismatch", "Upload exactly the file that the manifest names."


class TooManyParts(Problem):
    """The file came in more parts than are kept of one."""

    status, code, remedy = 422, "too_many_parts", "Send the file anew with PUT, whole, or in parts of 16 MiB and more."


class TooLarge(Problem):
    """The body is larger than this service takes."""

    status, code, remedy = 413, "too_large", "Send less; the limits are LATHE_MAX_BODY_BYTES and LATHE_MAX_FILE_BYTES."


class IdempotencyConflict(Problem):
    """The Idempotency-Key was used before with another body."""

    status, code, remedy = 422, "idempotency_key_reused", "Use a new key for a new request."


class RangeNotSatisfiable(Problem):
    """The Range lies outside the file."""

    status, code, remedy = 416, "range_not_satisfiable", "Ask for bytes within the size that Content-Range names."


class StorageFull(Problem):
    """The storage has no room for this upload, or the disk of the database is full."""

    status, code, remedy = 507, "storage_full", "Delete models, datasets or jobs that nobody needs, or enlarge the storage."


class QuotaExceeded(Problem):
    """The team has as many jobs, or used as many hours of workers, as it may."""

    status, code = 403, "quota_exceeded"
    remedy = "`quota` says what frees it; GET /v1/quotas shows all limits, which the operator can raise."


class BytesQuotaExceeded(Problem):
    """The team stores, promises or sends as many bytes as it may."""

    status, code = 507, "bytes_quota_exceeded"
    remedy = "Delete models, datasets or jobs that the team needs no more; GET /v1/quotas shows all limits."


class RateLimited(Problem):
    """More requests came from this key or address than are answered in the time."""

    status, code, remedy = 429, "rate_limited", "Ask again after Retry-After seconds; RateLimit tells what is left."


class TooManyStreams(Problem):
    """As many event streams are open as a key or a team may have."""

    status, code, remedy = 429, "too_many_streams", "Close a stream that nobody reads, or poll with `Prefer: wait=30`."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class Unavailable(Problem):
    """The database or the storage does not answer, or on SQLite too many writers wait."""

    status, code, remedy = 503, "unavailable", "Send the request again in a moment, with the same Idempotency-Key."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


class MalformedRequest(Problem):
    """The bytes are no HTTP/1.1 request, or one that could be read in two ways."""

    status, code, remedy = 400, "malformed_request", "Send it with an HTTP library; end each line of the headers with CR LF."


class RequestTimeout(Problem):
    """The request did not come to its end in time."""

    status, code = 408, "request_timeout"
    remedy = "Send it again, without a pause; the limits are LATHE_HEADER_SECONDS and LATHE_IDLE_SECONDS."


class TooManyConnections(Problem):
    """More connections are open than the service holds, of one address or of all."""

    status, code = 503, "too_many_connections"
    remedy = "Close connections that nobody uses, reuse those that are open, and come again after Retry-After seconds."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class Deleted(Problem):
    """The Idempotency-Key made something that has been deleted since."""

    status, code, remedy = 410, "deleted", "Send the request with a new Idempotency-Key to make it anew."


class NothingToTry(Problem):
    """The job's models cannot be asked here."""

    status, code = 409, "nothing_to_try"
    remedy = "Download the artifacts; the README in each has the lines that open it."


class TooManyTries(Problem):
    """The team asked more than is answered at once."""

    status, code, remedy = 429, "too_many_tries", "Wait for the answers, and ask again after Retry-After seconds."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class TooManyLinks(Problem):
    """The job has as many share links as it may have."""

    status, code, remedy = 409, "too_many_links", "Revoke those that nobody needs: DELETE /v1/jobs/{id}/share/{share_id}."


class InternalError(Problem):
    """A bug of ours; nothing was changed."""

    status, code, remedy = 500, "internal_error", "Report it with the request_id; the log has the rest."


ALL_PROBLEMS: tuple[type[Problem], ...] = tuple(Problem.__subclasses__())
"""Every problem with a code of its own, for docs/errors.md and its test."""


def field_path(location: tuple[int | str, ...]) -> str:
    """Name a field as its sender would: `recipe.prune.ratio`, without the web framework's leading 'body'."""
    parts = [str(part) for part in location]
    return ".".join(parts[1:] if parts and parts[0] in {"body", "query", "path", "header"} else parts)


def describe_errors(errors: list[ErrorDetails]) -> tuple[str, str]:
    """Turn pydantic's findings into (cause that names every field, path of the first field)."""
    causes = [f"{field_path(error['loc'])}: {error['msg']}" for error in errors]
    return "; ".join(causes[:10]), field_path(errors[0]["loc"])


def recipe_problem(error: ValidationError, prefix: str) -> InvalidRecipe:
    """Say which key of a recipe is wrong."""
    cause, param = describe_errors(error.errors())
    return InvalidRecipe(cause, param=f"{prefix}.{param}" if param else prefix)


def problem_body(problem: Problem, request_id: str | None) -> bytes:
    """Write a problem as JSON (RFC 9457)."""
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


def problem_response(problem: Problem, request: Request) -> Response:
    """Answer with a problem as application/problem+json."""
    state = request.scope.setdefault("state", {})
    state["problem"] = problem.code
    request_id = state.get("request_id")
    headers = {**problem.all_headers, "X-Request-Id": str(request_id)}
    return Response(problem_body(problem, request_id), problem.status, headers, media_type="application/problem+json")


def compression_problem(error: CompressionError) -> Problem:
    """Show what the engine's rules say against a request as a 422 under the engine's own code."""
    kind = type(type(error).__name__, (Problem,), {"status": 422, "code": error.code, "__doc__": type(error).__doc__})
    problem: Problem = kind(error.cause, param=error.param, remedy=error.remedy_text)
    return problem
