"""FastAPI dependencies of the routes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.auth import AdminDep, AskerDep, CallerDep, DeviceDep, MeasurerDep, OperatorDep, SubmitterDep, WriterDep
from app.api.idempotency import OnceDep
from app.core.errors import InvalidRequest
from app.core.settings import Settings, get_settings
from app.store.db import get_read_session, get_session
from app.store.storage import Storage, get_storage


def audited_session(request: Request) -> Iterator[Session]:
    """Yield a request's transaction, which includes its row in the audit log."""
    with contextmanager(get_session)() as session:
        yield session
        audit.record_success(session, request)


def _query_names(dependant: Dependant) -> Iterator[str]:
    """Yield the names of all query parameters that a route and its dependencies read."""
    yield from (field.alias for field in dependant.query_params)
    for below in dependant.dependencies:
        yield from _query_names(below)


def refuse_unknown_parameters(request: Request) -> None:
    """Raise InvalidRequest for query parameters that the API's route does not have: a misspelt filter would list everything.

    Pages take any: their addresses are written by hand, and links to them may carry what other programs add.
    """
    if not request.query_params or not request.url.path.startswith("/v1/"):
        return
    known = dict.fromkeys(_query_names(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        has = f"this path has {', '.join(known)}" if known else "this path has none"
        causes = [f"{name[:100]}: there is no such query parameter" for name in unknown[:10]]
        raise InvalidRequest(f"{'; '.join(causes)}; {has}", param=unknown[0][:100])


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
