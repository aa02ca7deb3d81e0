"""`Idempotency-Key`: repeating a creating POST returns the first answer and creates nothing.

The key's row is written first, in the request's own transaction: a concurrent duplicate waits for that commit and then replays
the answer (docs/decisions/0004-idempotency.md).
"""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.auth import Caller
from app.core.errors import Deleted, IdempotencyConflict, InvalidRequest
from app.store.models import Dataset, IdempotencyKey, Job, Model, Prediction, Profile


def _insert(session: Session) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that knows ON CONFLICT, which each database has in its own construct."""
    sqlite_here = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(IdempotencyKey) if sqlite_here else postgresql.insert(IdempotencyKey)


KINDS: dict[str, type[Any]] = {"mdl": Model, "dat": Dataset, "job": Job, "try": Prediction, "prf": Profile}


def _check_there(session: Session, answer: object) -> None:
    """Raise Deleted if the answer's object has been deleted since: nobody should wait for it or build on it."""
    identifier = str(answer.get("id", "")) if isinstance(answer, dict) else ""
    kind = KINDS.get(identifier.partition("_")[0])
    if kind is None:
        return
    row = session.get(kind, identifier)
    owner = session.get(Job, row.job_id) if isinstance(row, Prediction | Profile) else row
    if owner is None or owner.deleted_at is not None:
        raise Deleted(f"this key made {identifier}, which has been deleted", param="Idempotency-Key")


class Once:
    """Runs a creation at most once per key."""

    def __init__(
        self,
        request: Request,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200, description="Any unique text.")] = None,
    ) -> None:
        self.key, self.request = idempotency_key, request
        self.place = f"{request.method} {request.url.path}?{request.url.query}"

    def __call__(
        self, session: Session, caller: Caller, body: BaseModel | None, status: int, make: Callable[[], BaseModel]
    ) -> Response:
        """Return make()'s answer, or the stored answer of the same request. Raises IdempotencyConflict, Deleted."""
        if self.key is None:
            return JSONResponse(self._made(make), status)
        fingerprint = self._fingerprint(body)
        name = {"team_id": caller.team, "key": self.key}
        row = _insert(session).values(**name, fingerprint=fingerprint, status=0)
        claimed = session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.key)).scalar()
        if claimed is None:
            stored = session.get_one(IdempotencyKey, (caller.team, self.key))
            if stored.fingerprint != fingerprint:
                raise IdempotencyConflict(f"key {self.key!r} was used for another request", param="Idempotency-Key")
            _check_there(session, stored.body)
            audit.mark_read_only(self.request)
            return JSONResponse(stored.body, stored.status, {"Idempotency-Replayed": "true"})
        answer = self._made(make)
        mine = (IdempotencyKey.team_id == caller.team) & (IdempotencyKey.key == self.key)
        session.execute(update(IdempotencyKey).where(mine).values(status=status, body=answer))
        return JSONResponse(answer, status)

    def _fingerprint(self, body: BaseModel | None) -> str:
        try:
            sent = body.model_dump(mode="json") if body else None
            return hashlib.sha256(json.dumps([self.place, sent], sort_keys=True).encode()).hexdigest()
        except (ValueError, RecursionError) as error:  # not everything that can be parsed can be serialized again
            raise InvalidRequest("the body is nested too deeply") from error

    def _made(self, make: Callable[[], BaseModel]) -> dict[str, Any]:
        answer = make().model_dump(mode="json")
        audit.set_object(self.request, str(answer["id"]))
        return answer


OnceDep = Annotated[Once, Depends()]
