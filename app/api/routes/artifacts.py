"""/v1/artifacts: the bytes, whole or by range, each with its hash."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api import ranges
from app.api.dependencies import DeviceDep, ReadDep, StorageDep
from app.api.openapi import BINARY, headers, problems
from app.api.schemas import ArtifactOut, artifact_out
from app.core.errors import NotFound, RangeNotSatisfiable
from app.jobs.profiles import get_artifact
from app.store.models import File

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])


@router.get("/{artifact_id}", response_model=ArtifactOut)
def show(artifact_id: str, session: ReadDep, caller: DeviceDep) -> ArtifactOut:
    """Show an artifact and its files."""
    return artifact_out(get_artifact(session, caller.team, artifact_id, caller.device))


NAMED = ("ETag", "Repr-Digest", "Accept-Ranges", "Cache-Control", "Content-Disposition")
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": BINARY, "headers": headers(*NAMED)},
    206: {"content": BINARY, "headers": headers(*NAMED, "Content-Range")},
    304: {"description": "Not Modified", "headers": headers(*NAMED)},
    **problems(RangeNotSatisfiable),
}
ELSEWHERE: dict[int | str, dict[str, Any]] = {307: {"headers": headers(*NAMED, "Location")}}


@router.head("/{artifact_id}/files/{path:path}", response_class=Response, responses=FILE, name="head_file")
@router.get("/{artifact_id}/files/{path:path}", response_class=Response, responses={**FILE, **ELSEWHERE})
def download(
    artifact_id: str, path: str, request: Request, session: ReadDep, caller: DeviceDep, storage: StorageDep
) -> Response:
    """Send a file: Range and If-Range resume, ETag and Repr-Digest are its SHA-256."""
    files: list[File] = get_artifact(session, caller.team, artifact_id, caller.device).files
    file = next((file for file in files if file.path == path), None)
    if file is None or file.key is None:
        raise NotFound(f"artifact {artifact_id} has no file {path!r}", param="path")
    etag = f'"{file.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": ranges.repr_digest(file.sha256),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, immutable",
        "Content-Disposition": ranges.content_disposition(path),
    }
    if ranges.matches_etag(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    url = storage.presign(file.key) if request.method == "GET" else None
    if url:
        return RedirectResponse(url, 307, headers)
    window = ranges.parse_range(request.headers.get("range"), request.headers.get("if-range"), etag, file.size)
    start, stop = window or (0, file.size)
    headers["Content-Length"] = str(stop - start)
    if window:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    status, media = (206 if window else 200), "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media)
    return StreamingResponse(storage.read(file.key, start, stop), status, headers, media)
