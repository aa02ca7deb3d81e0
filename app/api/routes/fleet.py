"""/v1/workers, /v1/queue, /v1/storage, /v1/usage: workers, waiting work, stored bytes, and usage."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.accounts.auth import sees_hosts
from app.api.dependencies import CallerDep, ReadDep, StorageDep
from app.core.schemas import Page
from app.ops import fleet
from app.ops.fleet import QueueOut, StorageOut, UsageOut, WorkerOut

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/workers")
def workers(session: ReadDep, caller: CallerDep) -> Page[WorkerOut]:
    """List workers and when each was last seen; `job` if it is one of the caller's team, `host` for operators only."""
    return Page(items=list(fleet.workers(session, caller.team, operations=sees_hosts(caller))))


@router.get("/queue", response_model=QueueOut)
def queue(session: ReadDep, _caller: CallerDep) -> QueueOut:
    """Show how much waits and runs, of all teams."""
    return fleet.queue(session)


@router.get("/storage", response_model=StorageOut)
def storage(session: ReadDep, _caller: CallerDep, place: StorageDep) -> StorageOut:
    """Show how many bytes all teams store, and how much space is left."""
    return fleet.storage(session, place)


@router.get("/usage", response_model=UsageOut)
def usage(
    session: ReadDep, caller: CallerDep, days: Annotated[int, Query(ge=1, le=366, description="The last so many days.")] = 30
) -> UsageOut:
    """Show usage of the caller's team, and of all others together: jobs by state, worker minutes, stored bytes."""
    return fleet.usage(session, caller.team, days)
