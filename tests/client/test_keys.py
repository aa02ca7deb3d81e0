"""lathe keys, teams, shares and audit against the real API."""

import csv
import io
import json
import re
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.clock import now
from app.store.models import AuditEntry, Team
from client.api import Lathe
from tests.client.conftest import Command, Live, Ran
from tests.client.test_cli import succeed


def document(ran: Ran) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_keys_are_made_rotated_and_revoked(live: Live, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = document(command("keys", "create", "nightly", "--scope", "write", "--days", "30", "--json"))
    assert (made["scope"], made["replaces"]) == ("write", None)
    new = document(command("keys", "rotate", made["id"], "--overlap", "2", "--json"))
    assert (new["replaces"], new["name"]) == (made["id"], "nightly")
    listed = {key["id"]: key for key in document(command("keys", "ls", "--json"))}
    assert made["created_at"] < listed[made["id"]]["expires_at"] < made["expires_at"]
    shown = command("keys", "ls").out
    assert "first (this one)" in shown
    assert new["key"] not in shown
    assert document(command("keys", "create", "screen", "--read-only", "--json"))["scope"] == "read"
    assert command("keys", "create", "screen", "--read-only", "--scope", "admin").code == 2
    assert document(command("keys", "create", "usual", "--json"))["scope"] == "write"
    assert command("keys", "rotate", made["id"]).code == 6
    monkeypatch.setenv("LATHE_KEY", new["key"])
    refused = command("keys", "create", "more", "--json")
    assert json.loads(refused.out)["error"]["code"] == "insufficient_scope"
    assert command("keys", "revoke", made["id"]).code == 6
    assert command("keys", "revoke", new["id"]).code == 0
    late = command("ls", "--json")
    assert (late.code, json.loads(late.out)["error"]["status"]) == (6, 401)
    monkeypatch.delenv("LATHE_KEY")
    assert new["id"] not in [key["id"] for key in document(command("keys", "ls", "--json"))]
    command("keys", "revoke", made["id"])


@pytest.mark.parametrize("words", ["keys create", "keys rotate", "share"])
def test_a_range_of_days_is_told_in_words(command: Command, words: str) -> None:
    assert not re.search(r"\d\.\d{4}", command(*words.split(), "--help").out)
    wrong = command(*words.split(), "x", "--days", "0.0001")
    assert (wrong.code, "between a minute and" in " ".join(wrong.err.split())) == (2, True)


def test_a_team_is_made_renamed_and_closed(live: Live, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = document(command("teams", "create", "vision", "--json"))
    assert document(command("teams", "rename", made["id"], "seeing", "--json"))["name"] == "seeing"
    assert "default (yours)" in command("teams", "ls").out
    monkeypatch.setenv("LATHE_KEY", made["key"])
    assert [team["name"] for team in document(command("teams", "ls", "--json"))] == ["seeing"]
    assert command("teams", "create", "other").code == 6
    monkeypatch.delenv("LATHE_KEY")
    assert document(command("teams", "close", made["id"], "--json")) == {"closed": made["id"]}
    monkeypatch.setenv("LATHE_KEY", made["key"])
    assert command("teams", "ls").code != 0
    monkeypatch.delenv("LATHE_KEY")


def test_the_team_s_links_are_listed(live: Live, command: Command, job: str) -> None:
    live.end(job, succeed)
    link = document(command("share", job, "--json"))
    (found,) = [one for one in document(command("shares", "--json")) if one["id"] == link["id"]]
    assert (found["job"], found["url"]) == (job, None)
    assert found["key"] == live.service.database.key.split("_")[1]
    assert link["id"] in command("shares").out


def test_the_audit_log_is_read_as_a_table_json_and_csv(live: Live, command: Command) -> None:
    ids = [document(command("keys", "create", f"k{number}", "--json"))["id"] for number in range(3)]
    rows = document(command("audit", "--action", "keys.create", "--limit", "3", "--json"))
    assert [row["object"] for row in rows] == ids[::-1]
    assert ids[0] in command("audit", "--object", ids[0]).out
    table = list(csv.DictReader(io.StringIO(command("audit", "--csv", "--object", ids[1]).out)))
    assert [(row["action"], row["outcome"]) for row in table] == [("keys.create", "ok")]
    with Session(live.engine) as session, session.begin():
        told = {"key_id": "k", "action": "many.create", "outcome": "ok", "keep_until": now(3600.0)}
        team = session.scalars(select(Team.id).where(Team.operator)).one()
        session.add_all(AuditEntry(team_id=team, **told) for _ in range(201))
    every = list(csv.DictReader(io.StringIO(command("audit", "--csv", "--action", "many").out)))
    with Lathe.from_config() as lathe:
        listed = [row.id for row in lathe.audit(action="many.create")]
    assert [row["id"] for row in every] == listed
    assert len(set(listed)) == 201
    for limit in (1, 200, 201, 300):  # of one page, and of several
        some = command("audit", "--csv", "--action", "many", "--limit", str(limit)).out
        assert [row["id"] for row in csv.DictReader(io.StringIO(some))] == listed[:limit]
    assert len(document(command("audit", "--action", "many", "--json"))) == 50
