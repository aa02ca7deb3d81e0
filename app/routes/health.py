"""/healthz: is the process alive, and can it do its work? No key needed."""

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.db import reading
from app.deps import StorageDep
from app.storage import Storage

router = APIRouter(prefix="/healthz", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    """Say that the event loop turns."""
    return {"status": "ok"}


def _check(storage: Storage) -> dict[str, str]:
    found = {"database": "ok", "storage": "ok"}
    try:
        with reading() as session:
            session.execute(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError as error:
        found["database"] = f"away, or not migrated (python -m app.bootstrap): {type(error).__name__}"
    try:
        storage.free_bytes()
        next(storage.objects(".health/"), None)
    except Exception as error:  # any failure of any storage means the same here
        found["storage"] = f"away: {type(error).__name__}"
    return found


@router.get("/ready")
async def ready(storage: StorageDep) -> Any:
    """Say whether database and storage answer. The broker is not asked: jobs are accepted without it."""
    found = await asyncio.to_thread(_check, storage)
    fine = all(value == "ok" for value in found.values())
    return JSONResponse({"status": "ok" if fine else "unavailable", **found}, 200 if fine else 503)
