"""What handlers ask for."""

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.auth import Caller, get_caller
from app.db import get_read_session, get_session
from app.idempotency import OnceDep
from app.rates import admit_key
from app.settings import Settings, get_settings
from app.storage import Storage, get_storage


async def admitted(request: Request, caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    """Let a caller in whose key has not asked too often. Raises what `get_caller` does, and RateLimited."""
    await admit_key(request, caller.key)
    return caller


CallerDep = Annotated[Caller, Depends(admitted)]
# scope="function": the commit happens before the answer leaves; with the default scope a failed commit answered 200.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadDep = Annotated[Session, Depends(get_read_session, scope="function")]
StorageDep = Annotated[Storage, Depends(get_storage)]
SettingsDep = Annotated[Settings, Depends(get_settings)]

__all__ = ["CallerDep", "OnceDep", "ReadDep", "SessionDep", "SettingsDep", "StorageDep"]
