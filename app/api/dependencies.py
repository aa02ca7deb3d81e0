"""FastAPI dependencies of the routes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.auth import AdminDep, AskerDep, CallerDep, DeviceDep, MeasurerDep, OperatorDep, SubmitterDep, WriterDep
from app.api.idempotency import OnceDep
from app.core.settings import Settings, get_settings
from app.store.db import get_read_session, get_session
from app.store.storage import Storage, get_storage


def audited_session(request: Request) -> Iterator[Session]:
    """Yield a request's transaction, which includes its row in the audit log."""
    with contextmanager(get_session)() as session:
        yield session
        audit.record_success(session, request)


# scope="function": the commit happens before the response is sent; with the default scope a failed commit answered 200.
SessionDep = Annotated[Session, Depends(audited_session, scope="function")]
ReadDep = Annotated[Session, Depends(get_read_session, scope="function")]
StorageDep = Annotated[Storage, Depends(get_storage)]
SettingsDep = Annotated[Settings, Depends(get_settings)]

__all__ = [
    "AdminDep",
    "AskerDep",
    "CallerDep",
    "DeviceDep",
    "MeasurerDep",
    "OnceDep",
    "OperatorDep",
    "ReadDep",
    "SessionDep",
    "SettingsDep",
    "StorageDep",
    "SubmitterDep",
    "WriterDep",
]
