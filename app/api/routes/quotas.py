"""/v1/quotas: what the caller's team may take of the service, and takes."""

from fastapi import APIRouter

from app.api.dependencies import CallerDep, ReadDep
from app.store import quotas
from app.store.quotas import QuotasOut

router = APIRouter(prefix="/v1/quotas", tags=["quotas"])


@router.get("", response_model=QuotasOut)
def show(session: ReadDep, caller: CallerDep) -> QuotasOut:
    """Each limit of the team with its use, and what frees it. Streams are those of the process that answers."""
    return quotas.list_quotas(session, caller.team)
