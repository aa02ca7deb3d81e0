"""Where `lathe up` has its database and its broker from: passwords belong on no command line."""

import sys
from pathlib import Path

import pytest

from client.cli import main
from client.embedded import up
from client.errors import CannotStart

DATABASE, BROKER = "postgresql+psycopg://lathe:secret@db/lathe", "redis://:secret@broker/0"


def planned(home: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[str | None, str | None]:
    """Return the database and the broker that a start would use."""
    found: list[tuple[str | None, str | None]] = []

    def plan(*values: str | None) -> None:
        found.append(values[3:5])
        raise CannotStart("far enough", remedy="none")

    arguments = ["up", "--home", str(home), "--port", "0", "--workers", "0", "--device", "cpu", *options]
    monkeypatch.setattr(up, "Plan", plan)
    monkeypatch.setattr(sys, "argv", ["lathe", *arguments])
    with pytest.raises(SystemExit):
        main(arguments)
    return found[0]


def test_addresses_come_from_the_environment_where_no_option_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATHE_DATABASE_URL", DATABASE)
    monkeypatch.setenv("LATHE_BROKER_URL", BROKER)
    assert planned(tmp_path, monkeypatch) == (DATABASE, BROKER)
    said = capsys.readouterr().err
    assert "LATHE_DATABASE_URL is set" in said
    assert "LATHE_BROKER_URL is set" in said
    assert "secret" not in said
    assert planned(tmp_path, monkeypatch, "--database", "sqlite:////other")[0] == "sqlite:////other"


def test_a_password_in_an_argument_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LATHE_DATABASE_URL", "LATHE_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert planned(tmp_path, monkeypatch, "--database", "postgresql://lathe@db/lathe", "--broker", BROKER)[1] == BROKER
    said = capsys.readouterr().err
    assert "Set LATHE_BROKER_URL instead" in said
    assert "LATHE_DATABASE_URL" not in said
    assert planned(tmp_path, monkeypatch) == (f"sqlite:///{tmp_path / 'lathe.db'}", None)


def test_a_home_that_no_database_address_can_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LATHE_DATABASE_URL", raising=False)
    with pytest.raises(IndexError):  # no plan was made
        planned(tmp_path / "what?", monkeypatch)
    assert "has a `?`, where a database's address ends" in capsys.readouterr().err
