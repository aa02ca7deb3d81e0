"""/healthz as a balancer asks it: readiness tries a write to each part, and names the one that takes none."""

import shutil
import sqlite3

import httpx

from tests.conftest import Service, wait_for


def test_readiness_names_the_part_that_takes_no_write(alone: Service) -> None:
    def said() -> tuple[int, bool, bool]:
        answer = httpx.get(f"{alone.url}/healthz/ready")
        return answer.status_code, answer.json()["database"] == "ok", answer.json()["storage"] == "ok"

    assert said() == (200, True, True)
    probes = alone.home / "storage" / ".health"
    shutil.rmtree(probes, ignore_errors=True)
    probes.write_text("no folder")  # reads of the storage go on
    wait_for(lambda: said() == (503, True, False))
    probes.unlink()
    wait_for(lambda: said() == (200, True, True))
    with sqlite3.connect(alone.database.url.removeprefix("sqlite:///")) as lite:
        for change in ("INSERT", "UPDATE"):
            lite.execute(f"CREATE TRIGGER no_{change} BEFORE {change} ON leaders BEGIN SELECT RAISE(ABORT, 'full'); END")
    wait_for(lambda: said() == (503, False, True))
    assert httpx.get(f"{alone.url}/healthz/ready").json()["database"].startswith("takes no write")
    assert httpx.get(f"{alone.url}/healthz/live").status_code == 200
