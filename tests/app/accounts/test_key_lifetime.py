"""A key's life in the database: what it lets in ends with it."""

from sqlalchemy import update

from app.accounts import sessions
from app.accounts.auth import Caller, authenticate, is_active
from app.accounts.keys import create_key
from app.store.clock import now
from app.store.models import READ, ApiKey
from tests.app.conftest import SessionMaker
from tests.support.rows import team


def test_what_a_key_opened_ends_when_its_time_is_up(transaction: SessionMaker) -> None:
    with transaction() as session:
        row, text = create_key(session, team(session).id, "brief", READ, expires_in=3600.0)
        cookie = sessions.sign_in(session, row.id, 7200.0)
    callers = (Caller(row.team_id, row.id, READ), Caller(row.team_id, row.id, READ, sessions.hash_token(cookie)))
    with transaction() as session:
        assert authenticate(session, text) is not None
        assert sessions.find_visitor(session, cookie) is not None
        assert all(is_active(session, caller) for caller in callers)  # what a stream asks again and again
        session.execute(update(ApiKey).where(ApiKey.id == row.id).values(expires_at=now(-1.0)))
    with transaction() as session:
        assert authenticate(session, text) is None
        assert sessions.find_visitor(session, cookie) is None
        assert not any(is_active(session, caller) for caller in callers)
