"""The first start, and the way back when the only key is lost."""

import datetime as dt
import json
import os
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, select, text, update
from sqlalchemy.orm import Session

from app.accounts.auth import authenticate
from app.accounts.keys import create_key
from app.bootstrap import alembic_config
from app.store.clock import now
from app.store.db import make_engine
from app.store.models import ADMIN, READ, WRITE, ApiKey, File, Job, Model, Team, TeamDay
from tests.conftest import Database, ran, run_bootstrap
from tests.support.rows import submitted


def run(database: Database, home: Path, *command: str) -> tuple[int, str]:
    return ran({**os.environ, "LATHE_DATABASE_URL": database.url, "LATHE_HOME": str(home)}, *command)


def bootstrap(database: Database, home: Path, *options: str) -> str | None:
    return run_bootstrap(database.url, home, *options)


def test_a_lost_key_is_replaced_by_whoever_owns_the_database(database: Database, tmp_path: Path) -> None:
    assert bootstrap(database, tmp_path) is None  # the template has its first key already
    made = bootstrap(database, tmp_path, "--key", "spare")
    assert made is not None
    engine = make_engine(database.url)
    with Session(engine) as session:
        old, new = authenticate(session, database.key), authenticate(session, made)
    engine.dispose()
    assert (old.scope, old.operator) == (new.scope, new.operator) == (ADMIN, True)
    assert new.team == old.team
    assert new.key != old.key


def test_a_team_without_an_admin_gets_one_and_no_other_does(database: Database, tmp_path: Path) -> None:
    engine = make_engine(database.url)
    with Session(engine) as session, session.begin():
        first = authenticate(session, database.key)
        session.add(Team(id="team_closed", name="closed"))
        session.flush()
        ended = create_key(session, "team_closed", "old", ADMIN)[0].id
        create_key(session, "team_closed", "writes", WRITE)
        session.execute(update(ApiKey).where(ApiKey.id == ended).values(revoked_at=now()))
        create_key(session, first.team, "writes", WRITE)
    assert bootstrap(database, tmp_path) is None
    opened = bootstrap(database, tmp_path, "--team", "closed")
    assert opened is not None
    assert bootstrap(database, tmp_path, "--team", "closed") is None
    with Session(engine) as session, session.begin():
        again = authenticate(session, opened)
        assert (again.team, again.scope, again.operator) == ("team_closed", ADMIN, False)
        session.execute(update(ApiKey).where(ApiKey.id == first.key).values(expires_at=now(-1.0)))
    after = bootstrap(database, tmp_path)  # a write key is left, but no admin's
    with Session(engine) as session:
        assert after is not None
        assert authenticate(session, database.key) is None
        found = authenticate(session, after)
    engine.dispose()
    assert (found.team, found.scope, found.operator) == (first.team, ADMIN, True)
    status, said = run(database, tmp_path, "app.bootstrap", "--team", "nobody's")
    assert status != 0
    assert "there is no team" in said


def test_the_way_back_to_an_older_version_makes_no_reader_a_writer(database: Database) -> None:
    engine, config = make_engine(database.url), alembic_config()
    with Session(engine) as session, session.begin():
        known = authenticate(session, database.key)
        reader = create_key(session, known.team, "eyes", READ)[1]
        session.add(File(model_id=submitted(session).model_id, path="a", size=1, sha256="0" * 64))  # rows that point to others
    for step, revision in ((command.downgrade, "0005"), (command.upgrade, "head")):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            step(config, revision)
    with Session(engine) as session:
        assert authenticate(session, reader) is None
        assert authenticate(session, database.key) == known
    engine.dispose()


def test_a_migration_is_reversed_by_a_command(database: Database, tmp_path: Path) -> None:
    down = partial(run, database, tmp_path, "app.bootstrap", "--down")
    assert json.loads(down("0012")[1]) == {"migrated": "0012", "key": None}
    engine = make_engine(database.url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0012"
        assert not inspect(connection).has_table("devices")
    refusals = {("base",): "invalid choice", ("0013",): "cannot be migrated", ("0011", "--key", "x"): "makes no key"}
    for wrong, why in refusals.items():
        status, said = down(*wrong)
        assert status != 0
        assert why in said
    assert bootstrap(database, tmp_path) is None  # and forth: the first key is still there
    with engine.connect() as connection, Session(connection) as session:
        assert inspect(connection).has_table("devices")
        assert authenticate(session, database.key) is not None
    engine.dispose()


def test_a_database_of_before_knows_its_queues_and_the_size_of_its_uploads(database: Database) -> None:
    engine, config = make_engine(database.url), alembic_config()
    with Session(engine, expire_on_commit=False) as session, session.begin():
        waiting, running = submitted(session, "a"), submitted(session, "a")
        session.execute(update(Job).where(Job.id == running.id).values(state="running"))
        times = [dt.datetime(2026, 5, day, hour, tzinfo=dt.UTC) for day, hour in ((1, 23), (2, 1))]
        ended = {"state": "failed", "started_at": times[0], "finished_at": times[1]}
        session.execute(update(Job).where(Job.id == submitted(session, "a").id).values(**ended))
        for number in (3, 4):
            session.add(File(model_id=waiting.model_id, path=f"{number}", size=number, sha256="0" * 64))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0012")
        command.upgrade(config, "head")
    with Session(engine) as session, session.begin():
        team = session.scalars(select(Team).where(Team.name == "a")).one()
        assert (team.queued, team.running, team.weight, team.quotas) == (1, 1, 1.0, None)
        hours = [(row.day, row.seconds) for row in session.scalars(select(TeamDay))]
        assert hours == [(dt.datetime(2026, 5, 2, tzinfo=dt.UTC), pytest.approx(7200))]
        model = session.get_one(Model, waiting.model_id)
        assert (model.file_count, model.bytes) == (2, 7)
        session.execute(update(Job).where(Job.id == running.id).values(state="queued"))
        session.refresh(team)
        assert (team.queued, team.running) == (2, 0)
    engine.dispose()


def test_the_owner_of_the_database_changes_a_teams_limits(database: Database, tmp_path: Path) -> None:
    change = partial(run, database, tmp_path, "app.quotas", "default")
    found = json.loads(change("jobs_waiting=5", "weight=2.5")[1])
    assert (found["weight"], found["items"][0]["limit"]) == (2.5, 5)
    assert json.loads(change()[1]) == found
    status, said = change("jobs=5")
    assert status == 2
    assert "there are jobs_waiting" in said
