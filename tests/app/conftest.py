"""What the tests of the service share: sessions on both databases, and rows to begin with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import make_engine
from app.models import Job
from tests.conftest import Database
from tests.rows import submitted

pytest.register_assert_rewrite("tests.app.world")  # so that rows that differ are shown

SessionMaker = Callable[[], AbstractContextManager[Session]]


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An engine on a fresh database of each kind."""
    made = make_engine(database.url)
    yield made
    made.dispose()


@pytest.fixture
def transaction(engine: Engine) -> SessionMaker:
    """Opens a session that commits at its end."""

    @contextmanager
    def opened() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    return opened


@pytest.fixture
def new_job(transaction: SessionMaker) -> Callable[..., Job]:
    """Stores a waiting job of a named team, and what it needs."""

    def make(team_name: str = "default", **values: object) -> Job:
        with transaction() as session:
            return submitted(session, team_name, **values)

    return make
