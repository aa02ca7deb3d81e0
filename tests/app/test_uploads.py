"""A file on its way in: whatever is lost of the talk with the database, a row that names bytes has them."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import Request
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.types import Message

from app import uploads
from app.models import File, Model
from app.settings import Settings
from app.storage import LocalStorage
from tests.app.conftest import SessionMaker
from tests.rows import team

DATA = b"weights"


def put(storage: LocalStorage, model: Model) -> None:
    async def body() -> Message:
        return {"type": "http.request", "body": DATA, "more_body": False}

    request = Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, body)
    asyncio.run(uploads.receive(request, storage, Settings(), Model, model.team_id, model.id, "x"))


def test_bytes_stay_though_the_reply_to_the_commit_that_names_them_is_lost(
    transaction: SessionMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "store")
    with transaction() as session:
        model = Model(team_id=team(session).id, name="m")
        model.files = [File(path="x", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())]
        session.add(model)

    @contextmanager
    def cut_off() -> Iterator[Session]:
        with transaction() as session:
            yield session
        raise OperationalError("COMMIT", {}, ConnectionError("the connection was lost"))

    monkeypatch.setattr(uploads, "reading", transaction)
    monkeypatch.setattr(uploads, "writing", cut_off)
    with pytest.raises(OperationalError):
        put(storage, model)
    monkeypatch.setattr(uploads, "writing", transaction)
    put(storage, model)  # as its sender does
    with transaction() as session:
        key = session.scalars(select(File.key).where(File.model_id == model.id)).one()
    assert [stored.key for stored in storage.objects("uploads/")] == [key]
    assert key is not None
    assert b"".join(storage.read(key, 0, len(DATA))) == DATA
