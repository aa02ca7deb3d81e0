"""The client in async form, over the same network that is not to be relied on, and against the real API."""

import asyncio
import hashlib
import inspect
from pathlib import Path

import pytest
from fastapi.responses import JSONResponse, Response

from app.jobs import jobs
from client.aio import AsyncLathe
from client.api import Lathe
from client.errors import Problem, Unreachable, WaitedTooLong
from tests.client.conftest import FileServer, Live, served
from tests.client.flaky import Flaky, event
from tests.conftest import free_port

FAILURE = {"code": "label_mismatch", "cause": "the head has 3 labels", "remedy": "Send two.", "param": "models.base"}


def peer(live: Live) -> AsyncLathe:
    return AsyncLathe(live.service.url, live.service.database.key)


def test_a_post_arrives_once_whatever_the_network_does(flaky: Flaky) -> None:
    flaky.answers = [None, Response("<html>", status_code=502), JSONResponse({}, 503, {"Retry-After": "0"})]

    async def story(url: str) -> None:
        async with AsyncLathe(url, "k", attempts=4) as lathe:
            assert (await lathe.submit({})).id == "job_1"
            await lathe.submit({}, idempotency_key="mine")

    with served(flaky.app()) as url:
        asyncio.run(story(url))
    *tries, last = flaky.keys
    assert len(tries) == 4
    assert len(set(tries)) == 1
    assert last == "mine"


def test_a_broken_event_stream_is_taken_up_after_the_last_event(flaky: Flaky) -> None:
    flaky.events = [["retry: 2000\n\n", event(1), event(2), "id: 3\nevent: lo"], [event(2), event(3)]]

    async def story(url: str) -> list[int]:
        async with AsyncLathe(url, "k", attempts=4) as lathe:
            return [found.seq async for found in lathe.follow("job_1")]

    with served(flaky.app()) as url:
        assert asyncio.run(story(url)) == [1, 2, 3]
    assert flaky.resumed_at == ["0", "2"]


def test_what_is_wrong_is_raised(flaky: Flaky) -> None:
    flaky.answers = [JSONResponse({"code": "invalid_recipe", "cause": "c", "remedy": "r", "param": "recipe.x"}, 422)]

    async def story(url: str) -> None:
        async with AsyncLathe(url, "k", attempts=1) as lathe:
            with pytest.raises(Problem) as error:
                await lathe.submit({})
            assert (error.value.problem_code, error.value.param) == ("invalid_recipe", "recipe.x")
            with pytest.raises(Unreachable):
                await AsyncLathe(f"http://127.0.0.1:{free_port()}", "k", attempts=2).job("job_1")

    with served(flaky.app()) as url:
        asyncio.run(story(url))


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


BLOCKING = {"close", "send", "request", "ready", "chosen", "create_upload", "put_file", "offset", "append", "complete"}
"""What the sync client has for itself: parts of transfers, which the async one leaves to it."""


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[tuple[str, object]]]:
        methods = {name: one for name, one in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        return {
            name: [(each.name, each.default) for each in inspect.signature(one).parameters.values()]
            for name, one in methods.items()
            if name not in {*BLOCKING, "aclose"}
        }

    assert offered(AsyncLathe) == offered(Lathe)


def test_all_that_is_not_a_job_can_be_asked_for_too(live: Live) -> None:
    async def story() -> None:
        async with peer(live) as lathe:
            quick = next(one.recipe for one in await lathe.recipes() if one.name == "quick")
            same = {"prepare": {"rate": 1e-4, "patience": 2}, "distill": {"epochs": 6}}
            assert (await lathe.check_recipe(same)).recipe == quick
            assert (await lathe.families())[0]["name"] == "bert"
            assert (await lathe.queue()).queued >= 0
            assert await lathe.workers() == []
            assert [used.mine for used in (await lathe.usage(days=7)).items][:1] == [True]
            assert {one.name for one in (await lathe.quotas()).items} >= {
                "jobs_waiting",
                "worker_hours",
                "bytes_stored",
                "streams",
            }
            key = await lathe.create_key("aio")
            known = lathe.keys()
            assert key.id in [one.id async for one in known]
            async with AsyncLathe(lathe.url, key.key) as other:
                assert (await other.queue()).running >= 0
                await lathe.delete(f"keys/{key.id}")
                with pytest.raises(Problem, match="revoked"):
                    await other.queue()

    asyncio.run(story())


def test_a_download_that_is_cancelled_stops_and_is_taken_up(file_server: FileServer, tmp_path: Path) -> None:
    file_server.files["model.onnx"] = bytes(range(256)) * (64 << 10)
    artifact = file_server.artifact()

    async def story() -> None:
        async with AsyncLathe(file_server.url, "k") as lathe:
            begun = asyncio.Event()
            loop = asyncio.get_running_loop()
            download = asyncio.create_task(
                lathe.download(artifact, tmp_path, moved=lambda *_: loop.call_soon_threadsafe(begun.set))
            )
            await begun.wait()
            download.cancel()
            with pytest.raises(asyncio.CancelledError):
                await download
            assert not (tmp_path / "int8/model.onnx").exists()
            (folder,) = await lathe.download(artifact, tmp_path)
            assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == artifact.files[0].sha256

    asyncio.run(story())
