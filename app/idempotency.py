"""`Idempotency-Key`: sending a creating POST again answers what the first one did, and creates nothing.

The key's row is written first and in the request's own transaction: a twin that arrives meanwhile waits for the first one's
commit and then replays its answer (docs/decisions/0004-idempotency.md).
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

from app import audit
from app.auth import Caller
from app.errors import IdempotencyConflict
from app.models import IdempotencyKey


def _insert(session: Session) -> sqlite.Insert | postgresql.Insert:
    """Both databases know ON CONFLICT, each by its own construct."""
    sqlite_here = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(IdempotencyKey) if sqlite_here else postgresql.insert(IdempotencyKey)


class Once:
    """Runs a creation at most once a key."""

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
        """Return make()'s answer, or the stored one of the same request. Raises IdempotencyConflict for another body."""
        if self.key is None:
            return JSONResponse(self._made(make), status)
        sent = body.model_dump(mode="json") if body else None
        fingerprint = hashlib.sha256(json.dumps([self.place, sent], sort_keys=True).encode()).hexdigest()
        name = {"team_id": caller.team, "key": self.key}
        row = _insert(session).values(**name, fingerprint=fingerprint, status=0)
        claimed = session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.key)).scalar()
        if claimed is None:
            stored = session.get_one(IdempotencyKey, (caller.team, self.key))
            if stored.fingerprint != fingerprint:
                raise IdempotencyConflict(f"key {self.key!r} was used for another request", param="Idempotency-Key")
            audit.asks(self.request)
            return JSONResponse(stored.body, stored.status, {"Idempotency-Replayed": "true"})
        answer = self._made(make)
        mine = (IdempotencyKey.team_id == caller.team) & (IdempotencyKey.key == self.key)
        session.execute(update(IdempotencyKey).where(mine).values(status=status, body=answer))
        return JSONResponse(answer, status)

    def _made(self, make: Callable[[], BaseModel]) -> dict[str, Any]:
        answer = make().model_dump(mode="json")
        audit.about(self.request, str(answer["id"]))
        return answer


OnceDep = Annotated[Once, Depends()]
