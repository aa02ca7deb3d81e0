"""What only the async client does: many jobs at once, and transfers that are cancelled. test_api.py has what both do."""

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest

from app.jobs import jobs
from client.api import AsyncLathe
from client.errors import WaitedTooLong
from tests.client.conftest import FileServer, Live

FAILURE = {"code": "label_mismatch", "cause": "the head has 3 labels", "remedy": "Send two.", "param": "models.base"}


def peer(live: Live) -> AsyncLathe:
    return AsyncLathe(live.service.url, live.service.database.key)


def test_many_jobs_are_watched_at_once(live: Live) -> None:
    model, dataset = live.ready()

    async def story() -> list[str]:
        async with peer(live) as lathe:
            made = [await lathe.submit(model=model, data=dataset, recipe="quick", labels={"of": "aio"}) for _ in range(3)]
            with pytest.raises(WaitedTooLong):
                await lathe.wait(made[0].id, timeout=0.1)
            waits = [asyncio.create_task(lathe.wait(job.id, timeout=60)) for job in made]
            stream = asyncio.create_task(_kinds(lathe, made[0].id))
            listed = [job.id async for job in lathe.jobs(label="of:aio", state=["queued", "running"])]
            assert listed == [job.id for job in reversed(made)]
            for job in made:
                await asyncio.to_thread(live.end, job.id, lambda session, claim: jobs.fail(session, claim, FAILURE))
            assert await stream == ["queued", "claimed", "failed"]
            again = await lathe.retry(made[0].id)
            assert again.retry_of == made[0].id
            await lathe.cancel(again.id)
            return [(await done).state for done in waits]

    assert asyncio.run(story()) == ["failed"] * 3


async def _kinds(lathe: AsyncLathe, job_id: str) -> list[str]:
    return [found.type async for found in lathe.follow(job_id)]


def test_a_download_that_is_cancelled_stops_and_is_taken_up(file_server: FileServer, tmp_path: Path) -> None:
    file_server.files["model.onnx"] = bytes(range(256)) * (64 << 10)
    artifact = file_server.artifact()

    async def story() -> None:
        async with AsyncLathe(file_server.url, "k") as lathe:
            begun, go_on = asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def moved(*_: object) -> None:
                loop.call_soon_threadsafe(begun.set)
                go_on.wait(60)

            download = asyncio.create_task(lathe.download(artifact, tmp_path, moved=moved))
            await begun.wait()
            download.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await download
            assert not (tmp_path / "int8/model.onnx").exists()
            (folder,) = await lathe.download(artifact, tmp_path)
            assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == artifact.files[0].sha256

    asyncio.run(story())
