"""Static files at URLs with a content hash, so that browsers can cache them forever."""

import gzip
import hashlib
import mimetypes
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.core.errors import NotFound

FOLDER = Path(__file__).parent / "static"
SMALLEST_PACKED = 1024
router = APIRouter(include_in_schema=False)


@lru_cache
def _files() -> dict[str, bytes]:
    return {str(path.relative_to(FOLDER)): path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.is_file()}


@lru_cache
def version() -> str:
    """Return one hash of all static files: scripts import each other by relative URLs."""
    digest = hashlib.sha256()
    for name, content in _files().items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


@lru_cache
def _packed(name: str) -> bytes:
    return gzip.compress(_files()[name], mtime=0)


def url(name: str) -> str:
    """Return the URL of a static file. Raises KeyError if there is none."""
    _ = _files()[name]
    return f"/static/{version()}/{name}"


@router.get("/static/{wanted}/{name:path}")
def static(wanted: str, name: str, request: Request) -> Response:
    """Send a static file. A page of another version, during an update, gets the current file uncached."""
    content = _files().get(name)
    if content is None:
        raise NotFound(f"no static file {name!r}")
    kept = "public, max-age=31536000, immutable" if wanted == version() else "no-store"
    headers = {"Cache-Control": kept, "Vary": "Accept-Encoding"}
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if len(content) >= SMALLEST_PACKED and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(_packed(name), headers={**headers, "Content-Encoding": "gzip"}, media_type=kind)
    return Response(content, headers=headers, media_type=kind)
