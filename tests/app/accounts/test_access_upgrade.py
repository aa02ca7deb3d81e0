"""Keys, links and the audit log across the migration that gave them an end, on both databases."""

import datetime as dt

import pytest
from sqlalchemy import Engine, Executable, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.accounts.auth import authenticate
from app.accounts.keys import create_key
from app.core.ids import new_id
from app.store.clock import now
from app.store.models import ADMIN, DEVICE, READ, ApiKey, AuditEntry, ShareLink, Team
from tests.app.conftest import SessionMaker
from tests.support.migrations import migrate
from tests.support.rows import submitted

BEFORE = "0011"


@pytest.fixture
def old(engine: Engine) -> Engine:
    """A database as the version before left it."""
    migrate(engine, BEFORE, down=True)
    return engine


def old_key(session: Session, team: str, key: str, scope: str, created: str, revoked: str | None = None) -> None:
    values = {"id": key, "team": team, "scope": scope, "created": created, "revoked": revoked, "hash": "0" * 64}
    columns = "id, team_id, name, secret_sha256, scope, created_at, revoked_at"
    places = ":id, :team, :id, :hash, :scope, :created, :revoked"
    session.execute(text(f"INSERT INTO api_keys ({columns}) VALUES ({places})"), values)


def test_the_oldest_write_key_in_force_of_each_team_becomes_its_admin(old: Engine) -> None:
    days = [f"2026-01-0{day} 00:00:00.000000" for day in range(1, 6)]
    with Session(old) as session, session.begin():
        for team in ("two", "readers"):
            statement = text("INSERT INTO teams (id, name, created_at) VALUES (:team, :team, :moment)")
            session.execute(statement, {"team": team, "moment": days[0]})
        old_key(session, "two", "revoked", "write", days[0], days[1])
        old_key(session, "two", "eyes", "read", days[0])
        old_key(session, "two", "oldest", "write", days[2])
        old_key(session, "two", "later", "write", days[3])
        old_key(session, "two", "a-twin", "write", days[3])
        old_key(session, "readers", "only-eyes", "read", days[0])
    migrate(old, "head")
    with Session(old) as session:
        scopes = {key.id: key.scope for key in session.scalars(select(ApiKey).where(ApiKey.team_id.in_(["two", "readers"])))}
        assert scopes.pop("oldest") == "admin"
        assert scopes == {**dict.fromkeys(("revoked", "later", "a-twin"), "write"), "eyes": "read", "only-eyes": "read"}
        assert [team.name for team in session.scalars(select(Team).where(Team.operator))] == ["default"]
        (first,) = session.scalars(select(ApiKey).join(Team, Team.id == ApiKey.team_id).where(Team.name == "default"))
        assert (first.scope, first.expires_at, first.made_by) == ("admin", None, None)


def test_the_way_back_lets_nobody_do_more_or_for_longer(engine: Engine, transaction: SessionMaker) -> None:
    with transaction() as session:
        job = submitted(session)
        made = {
            name: create_key(session, job.team_id, name, scope, expires_in=expires)
            for name, scope, expires in (("admin", ADMIN, None), ("device", DEVICE, None), ("brief", READ, 3600.0))
        }
        for name, (row, _) in made.items():
            link = {"id": name, "job_id": job.id, "key_id": row.id, "token_sha256": name, "expires_at": now(3600.0)}
            session.execute(insert(ShareLink).values(**link))
    migrate(engine, BEFORE, down=True)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, scope, revoked_at IS NULL FROM api_keys WHERE name <> 'first'")).all()
        expected = {("admin", "write", True), ("device", "device", False), ("brief", "read", False)}
        assert {(name, scope, bool(lives)) for name, scope, lives in rows} == expected
        assert connection.execute(text("SELECT id FROM share_links")).scalars().all() == ["admin"]
    migrate(engine, "head")
    with transaction() as session:
        assert authenticate(session, made["admin"][1]) is not None
        assert authenticate(session, made["device"][1]) is None


def entry(keep: float) -> dict[str, object]:
    told = {"id": new_id("aud"), "team_id": "t", "key_id": "k", "action": "jobs.create", "outcome": "ok"}
    return {**told, "at": dt.datetime.now(dt.UTC), "keep_until": now(keep)}


def test_the_audit_log_only_grows_until_a_row_s_time_is_over(engine: Engine, transaction: SessionMaker) -> None:
    young, old = entry(3600.0), entry(-1.0)
    with transaction() as session:
        session.execute(insert(AuditEntry).values(**young))
        session.execute(insert(AuditEntry).values(**old))
    tries: list[Executable] = [
        update(AuditEntry).values(outcome="ok then"),
        update(AuditEntry).where(AuditEntry.id == old["id"]).values(keep_until=now(10.0)),
        delete(AuditEntry).where(AuditEntry.id == young["id"]),
        delete(AuditEntry),
    ]
    columns = "id, at, team_id, key_id, action, outcome, keep_until"
    values = f"'{young['id']}', '2026-01-01 00:00:00', 't', 'k', 'jobs.create', 'forged', '2020-01-01 00:00:00'"
    if engine.dialect.name == "sqlite":
        tries += [text(f"INSERT OR REPLACE INTO audit_log ({columns}) VALUES ({values})")]
    else:
        again = "ON CONFLICT (id) DO UPDATE SET outcome = 'forged'"
        tries += [text(f"INSERT INTO audit_log ({columns}) VALUES ({values}) {again}"), text("TRUNCATE audit_log")]
    for statement in tries:
        with pytest.raises(DBAPIError, match="the audit log only grows"), transaction() as session:
            session.execute(statement)
    with transaction() as session:
        assert {row.id: row.outcome for row in session.scalars(select(AuditEntry))} == {young["id"]: "ok", old["id"]: "ok"}
        session.execute(delete(AuditEntry).where(AuditEntry.keep_until <= now()))
    with transaction() as session:
        assert [row.id for row in session.scalars(select(AuditEntry))] == [young["id"]]
