"""/v1/quotas: what the caller's team may take of the service, and takes."""

from fastapi import APIRouter

from app import quotas
from app.deps import CallerDep, ReadDep
from app.quotas import QuotasOut

router = APIRouter(prefix="/v1/quotas", tags=["quotas"])


@router.get("", response_model=QuotasOut)
def show(session: ReadDep, caller: CallerDep) -> QuotasOut:
    """Each limit of the team with its use, and what frees it. Streams are those of the process that answers."""
    return quotas.quotas(session, caller.team)
