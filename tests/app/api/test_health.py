"""/healthz as a balancer asks it: readiness tries a write to each part, and names the one that takes none."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.api.routes import health
from app.store.storage import LocalStorage, Source
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


class Hanging(LocalStorage):
    """A bucket whose network is gone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.back = threading.Event()

    def put_file(self, key: str, source: Source) -> None:
        assert self.back.wait(60)
        super().put_file(key, source)


Probed = tuple[int, dict[str, str]]


async def probed(storage: LocalStorage) -> Probed:
    answer = await health.ready(storage)
    return answer.status_code, json.loads(bytes(answer.body))


def threads() -> int:
    return sum(thread.name == "readiness" for thread in threading.enumerate())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Probed]]:
    """Probes that wait briefly, for parts of which the ones that are named have surely answered."""
    monkeypatch.setattr(health, "_ready", health._Ready())
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(health, "ANSWER_SECONDS", 60.0)

    async def probe(storage: LocalStorage, *answering: str) -> Probed:
        last = health._ready.last = health._Test(storage)
        await asyncio.to_thread(wait_for, lambda: set(answering) <= set(last.found))
        with monkeypatch.context() as briefly:
            briefly.setattr(health, "ANSWER_SECONDS", 0.3)
            return await probed(storage)

    return probe


def test_probes_of_a_storage_that_hangs_take_no_thread_from_others(
    impatient: Callable[..., Awaitable[Probed]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_database", lambda: "ok")
    storage = Hanging(tmp_path / "store")

    async def probe_often() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        found = {"status": "unavailable", "database": "ok", "storage": "no answer within 0.3 seconds"}
        try:
            assert await impatient(storage, "database") == (503, found)
            probes = [asyncio.create_task(probed(storage)) for _ in range(5)]
            await asyncio.sleep(0.05)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "a page of jobs"), 5) == "a page of jobs"
            await asyncio.to_thread(wait_for, lambda: threads() == 1)
        finally:
            storage.back.set()
        assert [status for status, _ in await asyncio.gather(*probes)] == [200] * 5
        await asyncio.to_thread(wait_for, lambda: threads() == 0)
        assert await probed(storage) == (200, {"status": "ok", "database": "ok", "storage": "ok"})

    asyncio.run(probe_often())


def test_a_database_that_hangs_is_not_blamed_on_the_storage(
    impatient: Callable[..., Awaitable[Probed]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    monkeypatch.setattr(health, "_database", lambda: "ok" if back.wait(60) else "never")
    found = {"status": "unavailable", "database": "no answer within 0.3 seconds", "storage": "ok"}
    try:
        assert asyncio.run(impatient(LocalStorage(tmp_path / "store"), "storage")) == (503, found)
    finally:
        back.set()
    wait_for(lambda: threads() == 0)
