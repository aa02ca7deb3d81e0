"""The servers that tests kill come back with what they had promised to keep."""

from pathlib import Path

import psycopg
import pytest

from tests.faults.servers import Postgres, Valkey


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_postgresql_comes_back_on_its_port_with_what_was_committed(clean: bool, apart: Path) -> None:
    folder = apart / f"restarted-{clean}"
    folder.mkdir()
    with Postgres(folder) as server:
        server.run("CREATE TABLE kept AS SELECT 42 AS value")
        with psycopg.connect(server.url()) as connection:
            server.restart(clean=clean)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (42,)


def test_valkey_comes_back_empty(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        assert server._ask(b"SET a 1\r\n") == b"+OK\r\n"
        server.restart()
        assert server._ask(b"GET a\r\n") == b"$-1\r\n"
        server.flush()
