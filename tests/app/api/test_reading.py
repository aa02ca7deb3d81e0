"""What callers read: pages, waits that end with the change, events as pages and as a stream, reference lists."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import httpx

from tests.app.api.conftest import Json, new_team, problem, sql
from tests.conftest import Service


def test_pages_are_stable_and_filters_hold(http: httpx.Client, request_body: Json) -> None:
    ids = [http.post("/v1/jobs", json={**request_body, "labels": {"n": str(n % 2)}}).json()["id"] for n in range(5)]
    seen: list[str] = []
    url = "/v1/jobs?page_size=2"
    while url:
        answer = http.get(url)
        seen += [job["id"] for job in answer.json()["items"]]
        url = answer.links.get("next", {}).get("url", "")
        if len(seen) == 2:
            http.post("/v1/jobs", json=request_body)  # a newcomer does not shift the pages that follow
    assert seen == ids[::-1]
    assert [job["id"] for job in http.get("/v1/jobs?label=n:1").json()["items"]] == [ids[3], ids[1]]
    http.post(f"/v1/jobs/{ids[0]}/cancel")
    assert [job["id"] for job in http.get("/v1/jobs?state=cancelled").json()["items"]] == [ids[0]]
    problem(http.get("/v1/jobs?page_token=%21%21"), 422, "invalid_request", "page_token")


def test_a_label_is_what_a_filter_can_spell(http: httpx.Client, request_body: Json) -> None:
    for key in ('a"b', "a\\b", "a:b"):
        problem(http.post("/v1/jobs", json={**request_body, "labels": {key: "x"}}), 422, "invalid_request")
    for sought in ('a"b:x', '"].a:x', "a\\:x"):
        problem(http.get("/v1/jobs", params={"label": sought}), 422, "invalid_request", "label")
    job = http.post("/v1/jobs", json={**request_body, "labels": {"größe'%s.$[0]": "a:b"}}).json()["id"]
    found = http.get("/v1/jobs", params={"label": "größe'%s.$[0]:a:b"}).json()["items"]
    assert [item["id"] for item in found] == [job]


def test_a_list_is_narrowed_down_by_so_much_at_most(http: httpx.Client) -> None:
    for path, param in (("/v1/jobs", "label"), ("/v1/compare", "label"), ("/v1/jobs", "state")):
        wanted = "a:b" if param == "label" else "queued"
        assert http.get(path, params=[(param, wanted)] * 32).status_code == 200
        problem(http.get(path, params=[(param, wanted)] * 1500), 422, "invalid_request", param)


def test_a_wait_ends_with_the_change(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()
    with service.client() as other, ThreadPoolExecutor(1) as pool:
        place = f"/v1/jobs/{job['id']}"
        waiting = pool.submit(http.get, place, params={"version": job["version"]}, headers={"Prefer": "wait=60"})
        time.sleep(1)
        assert not waiting.done()
        other.post(f"{place}/cancel")
        answer = waiting.result(60)
    assert answer.json()["state"] == "cancelled"


def test_who_waits_holds_no_thread_and_no_session(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()
    place, many = f"/v1/jobs/{job['id']}", 60  # more than there are threads or sessions

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            client = httpx.AsyncClient(base_url=service.url, headers=http.headers, timeout=90, limits=httpx.Limits())
            await stack.enter_async_context(client)
            told = []
            for _ in range(many):
                opened = client.stream("GET", f"{place}/events", headers={"Accept": "text/event-stream"})
                lines = (await stack.enter_async_context(opened)).aiter_lines()
                assert await anext(lines) == "retry: 2000"
                told.append(lines)
            asked = {"params": {"version": job["version"]}, "headers": {"Prefer": "wait=60"}}
            waits = [asyncio.create_task(client.get(place, **asked)) for _ in range(many)]
            await asyncio.sleep(1)
            assert (await client.get(place, timeout=30)).json()["state"] == "queued"
            assert not [wait for wait in waits if wait.done()]
            await client.post(f"{place}/cancel", timeout=30)
            assert {(await wait).json()["state"] for wait in waits} == {"cancelled"}
            for lines in told:
                assert "event: cancelled" in [line async for line in lines]

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_events_come_as_pages_and_as_a_stream(http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    http.post(f"/v1/jobs/{job}/cancel")
    page = http.get(f"/v1/jobs/{job}/events?page_size=1").json()
    assert [event["type"] for event in page["items"]] == ["queued"]
    rest = http.get(f"/v1/jobs/{job}/events", params={"page_token": page["next_page_token"]}).json()
    assert [(event["seq"], event["type"]) for event in rest["items"]] == [(2, "cancelled")]
    stream = http.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "1"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert {line for line in stream.text.splitlines() if line.startswith(("id", "event"))} == {"id: 2", "event: cancelled"}


def test_a_stream_ends_when_its_job_is_deleted(http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: queued"
        http.post(f"/v1/jobs/{job}/cancel")
        assert http.delete(f"/v1/jobs/{job}").status_code == 204
        list(lines)  # raises where the stream breaks off


def test_reference_lists(http: httpx.Client) -> None:
    recipes = http.get("/v1/recipes").json()
    names = ["standard", "auto", "article", "published", "smallest", "quick", "language"]
    assert [item["name"] for item in recipes["items"]] == names
    of_images = {item["name"]: item["of_modalities"].get("image") for item in recipes["items"]}
    assert of_images["standard"]["quantize"]["scheme"] == "static-int8"
    assert of_images["language"] is None
    assert "Prune" in recipes["schema"]["$defs"]
    asked = {
        task: {item["name"]: item["recipe"] for item in http.get("/v1/recipes", params={"task": task}).json()["items"]}
        for task in ("text-classification", "token-classification", "image-classification")
    }
    assert asked["text-classification"] == {item["name"]: item["recipe"] for item in recipes["items"]}
    assert asked["image-classification"]["standard"] == of_images["standard"]
    assert [found["article"]["distill"]["augment"] is None for found in asked.values()] == [False, True, True]
    problem(http.get("/v1/recipes", params={"task": "cooking"}), 422, "invalid_request", "task.0")
    names = "bert distilbert roberta xlm-roberta electra mpnet llama mistral qwen2 qwen3 gpt2 deepseek_v2 deepseek_v3 network"
    names += " resnet mobilenet_v2 convnext convnextv2 vit deit swin"
    assert [item["name"] for item in http.get("/v1/families").json()["items"]] == names.split()
    assert {"queued", "running"} < set(http.get("/v1/queue").json())
    assert http.get("/v1/workers").json()["items"] == []


def test_a_poll_shows_every_change_and_nobody_else_s_job(service: Service, http: httpx.Client, request_body: Json) -> None:
    place = f"/v1/jobs/{http.post('/v1/jobs', json=request_body).json()['id']}"
    earlier = http.get(place).json()["queue_position"]
    other = http.post("/v1/jobs", json={**request_body, "priority": 10}).json()
    assert http.get(place).json()["queue_position"] > earlier, "its place changed, though it did not"
    job = place.rsplit("/", 1)[1]
    sql(service, "UPDATE jobs SET state = 'running', version = version + 1 WHERE id = %s", job)
    assert [http.get(place).json()["state"] for _ in range(2)] == ["running"] * 2
    sql(service, "UPDATE jobs SET stage = 'pruned', version = version + 1 WHERE id = %s", job)
    assert [http.get(place).json()["stage"] for _ in range(2)] == ["pruned"] * 2
    with service.client(new_team(service)) as stranger:
        problem(stranger.get(place), 404, "not_found")
    sql(service, "UPDATE jobs SET state = 'cancelled', deleted_at = created_at, version = version + 1 WHERE id = %s", job)
    problem(http.get(place), 404, "not_found")
    http.post(f"/v1/jobs/{other['id']}/cancel")
