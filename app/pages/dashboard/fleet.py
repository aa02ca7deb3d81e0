"""The fleet page: workers, queue, storage and usage by team."""

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.accounts.auth import sees_hosts
from app.accounts.sessions import Visitor
from app.api.dependencies import ReadDep, StorageDep
from app.ops import fleet as domain
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from app.store.models import JOB_STATES
from app.store.quotas import list_quotas
from app.store.storage import Storage

router = APIRouter(include_in_schema=False, route_class=PageRoute)
DAYS = 30


def facts(session: Session, visitor: Visitor, storage: Storage) -> dict[str, Any]:
    """Return what the page shows, as /v1/workers, /v1/queue, /v1/storage, /v1/usage and /v1/quotas return it."""
    workers = domain.workers(session, visitor.team, operations=sees_hosts(visitor))
    used = domain.usage(session, visitor.team, DAYS)
    return {
        "workers": workers,
        "alive": [worker for worker in workers if worker.alive],
        "queue": domain.queue(session),
        "storage": domain.storage(session, storage),
        "usage": used,
        "quotas": list_quotas(session, visitor.team),
        "most_bytes": max((_kept(one) for one in used.items), default=0),
        "days": DAYS,
        "states": JOB_STATES,
        "devices": domain.devices,
        "device_summary": domain.device_summary,
        "lost_device": domain.lost_device,
        "kept": _kept,
    }


def _kept(one: domain.Used) -> int:
    return one.models_bytes + one.datasets_bytes + one.artifacts_bytes


@router.get("/fleet")
def fleet(request: Request, session: ReadDep, visitor: VisitorDep, storage: StorageDep) -> Response:
    """Show the fleet; to the page itself, its current state."""
    template = "fleet_now.html" if by_htmx(request) else "fleet.html"
    return render(request, template, visitor, here="fleet", **facts(session, visitor, storage))
