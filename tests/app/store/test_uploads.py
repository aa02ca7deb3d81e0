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

from app.core.errors import TooManyParts
from app.core.settings import Settings
from app.store import upload_reservation, uploads
from app.store.models import File, Model, UploadPart
from app.store.storage import LocalStorage, Storage
from tests.app.conftest import SessionMaker
from tests.support.rows import team

DATA = b"weights"


def asked(*chunks: bytes) -> Request:
    """A request whose body comes in chunks."""
    left = list(chunks)

    async def body() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, body)


def put(storage: Storage, model: Model) -> None:
    asyncio.run(
        uploads.receive_file(asked(DATA), storage, Settings(), uploads.UploadTarget(Model, model.team_id, model.id, "x"))
    )


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
    monkeypatch.setattr(upload_reservation, "writing", transaction)
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


def test_a_long_part_is_kept_piece_by_piece_in_either_storage(
    transaction: SessionMaker, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 400
    with transaction() as session:
        model = Model(team_id=team(session).id, name="m")
        model.files = [File(path="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())]
        session.add(model)
    monkeypatch.setattr(uploads, "reading", transaction)
    monkeypatch.setattr(upload_reservation, "writing", transaction)
    monkeypatch.setattr(uploads, "writing", transaction)
    monkeypatch.setattr(uploads, "PART_BYTES", 10_000)
    place = uploads.UploadTarget(Model, model.team_id, model.id, "x")

    def append(offset: int, *chunks: bytes) -> uploads.UploadProgress:
        return asyncio.run(uploads.append_part(asked(*chunks), storage, Settings(), place, offset))

    assert append(0, data[:25_000], b"", data[25_000:42_000]).offset == 42_000
    with transaction() as session:
        sizes = [part.size for part in session.scalars(select(UploadPart).order_by(UploadPart.start))]
    assert sizes == [10_000, 10_000, 10_000, 10_000, 2_000]
    assert sorted(found.size for found in storage.objects(f"uploads/{model.id}/")) == sorted(sizes)
    assert append(42_000, data[42_000:]).whole
    with transaction() as session:
        assert session.scalars(select(UploadPart)).all() == []
        key = session.scalars(select(File.key).where(File.model_id == model.id)).one()
    assert [found.key for found in storage.objects(f"uploads/{model.id}/")] == [key]
    assert b"".join(storage.read(str(key), 0, len(data))) == data


def test_a_file_does_not_come_in_any_number_of_parts(
    transaction: SessionMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "store")
    with transaction() as session:
        model = Model(team_id=team(session).id, name="m")
        model.files = [File(path="x", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())]
        session.add(model)
    monkeypatch.setattr(uploads, "reading", transaction)
    monkeypatch.setattr(upload_reservation, "writing", transaction)
    monkeypatch.setattr(uploads, "writing", transaction)
    monkeypatch.setattr(uploads, "MOST_PARTS", 2)
    place = uploads.UploadTarget(Model, model.team_id, model.id, "x")
    for at in range(2):
        asyncio.run(uploads.append_part(asked(DATA[at : at + 1]), storage, Settings(), place, at))
    with pytest.raises(TooManyParts):
        asyncio.run(uploads.append_part(asked(DATA[2:]), storage, Settings(), place, 2))
    put(storage, model)  # as the remedy says
    assert [found.size for found in storage.objects(f"uploads/{model.id}/")] == [len(DATA)]
