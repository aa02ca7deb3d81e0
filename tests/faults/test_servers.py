"""The servers that tests kill come back with what they had promised to keep."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.servers import Postgres, Valkey


@pytest.fixture(scope="module")
def server(apart: Path) -> Iterator[Postgres]:
    folder = apart / "restarted"
    folder.mkdir()
    with Postgres(folder) as made:
        yield made


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_postgresql_comes_back_on_its_port_with_what_was_committed(clean: bool, server: Postgres) -> None:
    server.run(f"CREATE TABLE kept_{clean} AS SELECT 42 AS value")
    with psycopg.connect(server.url()) as connection:
        server.restart(clean=clean)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with psycopg.connect(server.url()) as connection:
        assert connection.execute(f"SELECT value FROM kept_{clean}").fetchone() == (42,)


def test_valkey_comes_back_empty(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        assert server._ask(b"SET a 1\r\n") == b"+OK\r\n"
        server.restart()
        assert server._ask(b"GET a\r\n") == b"$-1\r\n"
        server.flush()
