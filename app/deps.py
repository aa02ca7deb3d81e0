"""What handlers ask for."""

from typing import Annotated

from fastapi import Depends
from sqlalchemy.orm import Session

from app.auth import CallerDep
from app.db import get_read_session, get_session
from app.idempotency import OnceDep
from app.settings import Settings, get_settings
from app.storage import Storage, get_storage

# scope="function": the commit happens before the answer leaves; with the default scope a failed commit answered 200.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadDep = Annotated[Session, Depends(get_read_session, scope="function")]
StorageDep = Annotated[Storage, Depends(get_storage)]
SettingsDep = Annotated[Settings, Depends(get_settings)]

__all__ = ["CallerDep", "OnceDep", "ReadDep", "SessionDep", "SettingsDep", "StorageDep"]
