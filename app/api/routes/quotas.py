"""/v1/quotas: the limits of the caller's team, and their use."""

from fastapi import APIRouter

from app.api.dependencies import CallerDep, ReadDep
from app.store import quotas
from app.store.quotas import QuotasOut

router = APIRouter(prefix="/v1/quotas", tags=["quotas"])


@router.get("", response_model=QuotasOut)
def show(session: ReadDep, caller: CallerDep) -> QuotasOut:
    """List each limit of the team, its use, and what frees it. Streams are those of the process that answers."""
    return quotas.list_quotas(session, caller.team)
