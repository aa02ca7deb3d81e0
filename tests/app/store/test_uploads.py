"""A file on its way in: whatever is lost of the talk with the database, a row that names bytes has them."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
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
    left = list(chunks)

    async def body() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, body)


Sending = Callable[[bytes], uploads.UploadTarget]


@pytest.fixture
def sending(transaction: SessionMaker, monkeypatch: pytest.MonkeyPatch) -> Sending:
    """Makes a model with one file of these bytes, which are about to be sent."""
    for module, name in ((uploads, "reading"), (uploads, "writing"), (upload_reservation, "writing")):
        monkeypatch.setattr(module, name, transaction)

    def made(data: bytes) -> uploads.UploadTarget:
        with transaction() as session:
            model = Model(team_id=team(session).id, name="m")
            model.files = [File(path="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())]
            session.add(model)
        return uploads.UploadTarget(Model, model.team_id, model.id, "x")

    return made


def put(storage: Storage, place: uploads.UploadTarget) -> None:
    asyncio.run(uploads.receive_file(asked(DATA), storage, Settings(), place))


def test_bytes_stay_though_a_commit_s_reply_is_lost(
    sending: Sending, transaction: SessionMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, place = LocalStorage(tmp_path / "store"), sending(DATA)

    @contextmanager
    def cut_off() -> Iterator[Session]:
        with transaction() as session:
            yield session
        raise OperationalError("COMMIT", {}, ConnectionError("the connection was lost"))

    monkeypatch.setattr(uploads, "writing", cut_off)
    with pytest.raises(OperationalError):
        put(storage, place)
    monkeypatch.setattr(uploads, "writing", transaction)
    put(storage, place)  # as its sender does
    with transaction() as session:
        key = session.scalars(select(File.key).where(File.model_id == place.identifier)).one()
    assert [stored.key for stored in storage.objects("uploads/")] == [key]
    assert key is not None
    assert b"".join(storage.read(key, 0, len(DATA))) == DATA


def test_a_long_part_is_kept_in_pieces(
    sending: Sending, transaction: SessionMaker, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 400
    place = sending(data)
    monkeypatch.setattr(uploads, "PART_BYTES", 10_000)

    def append(offset: int, *chunks: bytes) -> uploads.UploadProgress:
        return asyncio.run(uploads.append_part(asked(*chunks), storage, Settings(), place, offset))

    assert append(0, data[:25_000], b"", data[25_000:42_000]).offset == 42_000
    with transaction() as session:
        sizes = [part.size for part in session.scalars(select(UploadPart).order_by(UploadPart.start))]
    assert sizes == [10_000, 10_000, 10_000, 10_000, 2_000]
    assert sorted(found.size for found in storage.objects(f"uploads/{place.identifier}/")) == sorted(sizes)
    assert append(42_000, data[42_000:]).whole
    with transaction() as session:
        assert session.scalars(select(UploadPart)).all() == []
        key = session.scalars(select(File.key).where(File.model_id == place.identifier)).one()
    assert [found.key for found in storage.objects(f"uploads/{place.identifier}/")] == [key]
    assert b"".join(storage.read(str(key), 0, len(data))) == data


def test_a_file_does_not_come_in_any_number_of_parts(sending: Sending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, place = LocalStorage(tmp_path / "store"), sending(DATA)
    monkeypatch.setattr(uploads, "MOST_PARTS", 2)
    for at in range(2):
        asyncio.run(uploads.append_part(asked(DATA[at : at + 1]), storage, Settings(), place, at))
    with pytest.raises(TooManyParts):
        asyncio.run(uploads.append_part(asked(DATA[2:]), storage, Settings(), place, 2))
    put(storage, place)  # as the remedy says
    assert [found.size for found in storage.objects(f"uploads/{place.identifier}/")] == [len(DATA)]
