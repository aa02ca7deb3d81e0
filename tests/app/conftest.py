"""What the tests of the service share: sessions on both databases, and rows to begin with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import make_engine
from app.models import Dataset, Job, Model, Team
from tests.conftest import Database

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
    from app import jobs

    def make(team_name: str = "default", **values: object) -> Job:
        with transaction() as session:
            team = session.scalar(select(Team).where(Team.name == team_name))
            if team is None:
                team = Team(name=team_name)
                session.add(team)
                session.flush()
            model = Model(team_id=team.id, name="m", state="ready")
            dataset = Dataset(team_id=team.id, name="d", state="ready", task="text-classification", data={})
            session.add_all([model, dataset])
            session.flush()
            job = Job(
                team_id=team.id,
                name="j",
                task="text-classification",
                model_id=model.id,
                dataset_id=dataset.id,
                recipe={},
                evaluate={},
                targets={},
                **values,
            )
            return jobs.submit(session, job)

    return make
