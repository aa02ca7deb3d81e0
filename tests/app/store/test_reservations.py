"""Room is promised once: uploads at the same time fit together, in several processes too. A full disk says so by its name."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.api.exception_handlers import is_disk_full
from app.core.errors import BytesQuotaExceeded, StorageFull
from app.store import upload_reservation
from app.store.clock import now
from app.store.db import make_engine
from app.store.models import Team
from app.store.reservations import SPARE_BYTES, Reservation, reserved_bytes
from app.store.storage import LocalStorage
from tests.app.api.conftest import entry, problem
from tests.app.conftest import SessionMaker
from tests.conftest import Service, fresh_database, started, wait_for
from tests.faults.conftest import SMALL_DISK, small_disk
from tests.faults.test_disk import fill
from tests.support.rows import team

FREE = 900


class Disk(LocalStorage):
    """A folder on a disk with so much room that uploads may take; what is written to it stays away from the test's own."""

    def free_bytes(self) -> int | None:
        return SPARE_BYTES + FREE


@pytest.fixture
def owner(transaction: SessionMaker) -> str:
    with transaction() as session:
        return team(session).id


def tried(held: upload_reservation.UploadReservation) -> bool:
    try:
        held.reserve()
    except StorageFull:
        return False
    return True


Reserve = Callable[[int], upload_reservation.UploadReservation]


@pytest.fixture
def room(tmp_path: Path, owner: str, transaction: SessionMaker, monkeypatch: pytest.MonkeyPatch) -> Reserve:
    """An upload of so many bytes, for which nothing is reserved yet."""
    monkeypatch.setattr(upload_reservation, "writing", transaction)
    return partial(upload_reservation.UploadReservation, Disk(tmp_path / "store"), owner)


def test_uploads_at_the_same_time_fit_together(room: Reserve, owner: str, transaction: SessionMaker) -> None:
    rooms = [room(FREE // 3 + 1) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(tried, rooms))
    assert found.count(True) == 2
    with transaction() as session:
        assert reserved_bytes(session) == reserved_bytes(session, owner) == 2 * (FREE // 3 + 1)
    rooms[found.index(True)].release()
    assert tried(room(FREE // 3 + 1))


def test_what_has_come_is_reserved_no_more(room: Reserve) -> None:
    upload, other = room(FREE), room(FREE // 3)
    assert tried(upload)
    assert not tried(other)
    upload.left = FREE // 2  # as `took` counts
    upload.renew()
    assert tried(other)


def test_an_upload_that_says_nothing_loses_its_room(room: Reserve, transaction: SessionMaker) -> None:
    silent, other = room(FREE), room(FREE)
    assert tried(silent)
    with transaction() as session:
        session.execute(update(Reservation).values(expires_at=now(-1)))
        assert reserved_bytes(session) == 0
    assert tried(other)
    with transaction() as session:
        assert [row.id for row in session.scalars(select(Reservation))] == [other.reservation]  # the void one is swept
    with pytest.raises(StorageFull):
        silent.renew()
    other.release()
    silent.renew()  # there is room again, so it goes on
    with transaction() as session:
        assert reserved_bytes(session) == FREE


def test_a_team_does_not_reserve_all_there_is(room: Reserve, transaction: SessionMaker) -> None:
    with transaction() as session:
        session.execute(update(Team).values(quotas={"bytes_arriving": 500}))
    assert tried(room(300))
    with pytest.raises(BytesQuotaExceeded) as caught:
        room(300).reserve()
    assert caught.value.facts["quota"]["used"] == 300


def test_a_database_whose_disk_is_full_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE told (what TEXT)"))
    with pytest.raises(OperationalError) as caught, engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for _ in range(100):
            connection.execute(text("INSERT INTO told VALUES (hex(zeroblob(4096)))"))
    engine.dispose()
    assert is_disk_full(caught.value)
    with pytest.raises(OperationalError) as caught, Session(make_engine(f"sqlite:///{tmp_path / 'x.db'}")) as session:
        session.execute(text("SELECT * FROM nothing"))
    assert not is_disk_full(caught.value)


@pytest.fixture
def full(templates: dict[str, str], valkey: str, tmp_path: Path) -> Iterator[Service]:
    """An API whose database and storage lie on one small disk."""
    home = tmp_path / "home"
    with (
        small_disk(home, "200m"),
        fresh_database("sqlite", "", templates, home) as database,
        started(Service(home, database, valkey)) as made,
    ):
        yield made


def ready(service: Service) -> tuple[int, str]:
    answer = httpx.get(f"{service.url}/healthz/ready")
    return answer.status_code, answer.json()["storage"]


@pytest.mark.skipif(not SMALL_DISK, reason="only root may mount the small disk that this fills")
def test_a_full_disk_is_told_as_such_and_is_no_end(full: Service) -> None:
    data = os.urandom(1 << 20)
    with full.client() as http:
        body = {"name": "m", "files": [entry("config.json", data)]}
        place = f"/v1/models/{http.post('/v1/models', json=body).json()['id']}/files/config.json"
        filler = fill(full.home)
        wait_for(lambda: (told := ready(full))[0] == 503 and told[1].startswith("takes no write"))
        problem(http.put(place, content=data), 507, "storage_full")
        for _ in range(3):  # whatever needs a write says the same, and never a bare 500
            answer = http.post("/v1/models", json=body)
            if answer.status_code != 201:  # SQLite may have had room in its log
                problem(answer, 507, "storage_full")
        assert http.get("/v1/models").status_code == 200
        filler.unlink()
        wait_for(lambda: ready(full) == (200, "ok"))
        assert http.put(place, content=data).status_code == 200
