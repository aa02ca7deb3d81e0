"""The HTTP interface: what it answers, what it refuses and how, and what it counts."""

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from compression.modalities.scoring.base import answered
from compression.schema.prediction import Served
from compression.serving import http
from compression.serving.batching import BatchRules
from compression.serving.http import READING, SHORT, Limits, Server
from compression.serving.served_model import ServedModel
from tests.support.tiny_shipment import Shipment

RULES = BatchRules(most=8, target=10.0)
LIMITS = Limits(queue=8, body=2000)


@pytest.fixture
def model(tiny_shipment: Shipment) -> ServedModel:
    return ServedModel(tiny_shipment.folder(tiny_shipment.int8), threads=1)


@contextlib.asynccontextmanager
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    app = server.app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as asking:
            yield asking


def asked(model: ServedModel, *requests: dict[str, Any], limits: Limits = LIMITS) -> list[httpx.Response]:
    async def story() -> list[httpx.Response]:
        async with client(Server(model, RULES, limits)) as asking:
            return [await asking.request(**{"method": "POST", "url": "/v1/predict", **each}) for each in requests]

    return asyncio.run(story())


def test_few_requests_are_read_at_a_time(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is as long as is read on a thread; an image of some kilobytes may be large too."""
    together, most, lock = 0, 0, threading.Lock()

    def encode(given: Any) -> Any:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.05)
        with lock:
            together -= 1
        return ServedModel.encode(model, given)

    monkeypatch.setattr(model, "encode", encode)

    async def story() -> list[httpx.Response]:
        async with client(Server(model, RULES, Limits(queue=8, body=10_000))) as asking:
            texts = [{"text": "good " * (SHORT // 4)} for _ in range(6)]
            return await asyncio.gather(*(asking.post("/v1/predict", json=each) for each in texts))

    assert {answer.status_code for answer in asyncio.run(story())} == {200}
    assert most == READING


def test_it_answers_as_try_does(model: ServedModel) -> None:
    (found,) = asked(model, {"json": {"text": "good word1"}})
    assert found.status_code == 200
    served = Served.model_validate_json(found.content)
    windows = model.reader.ask([{"text": "good word1"}])
    logits = answered(model.runner, model.reader, windows.windows, 1)
    expected = model.scorer.shown(model.scorer.answers(windows, logits, [])[0], logits[0], model.labels)
    assert served.label == expected["label"]
    assert served.scores == pytest.approx(expected["scores"])
    assert served.batch == 1
    assert "onnxruntime" in served.runtime
    assert served.milliseconds > 0


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"),
    [
        ({"json": {}}, 422, "invalid_request", "text"),
        ({"json": {"text": ""}}, 422, "invalid_request", "text"),
        ({"json": {"text": 7}}, 422, "invalid_request", "text"),
        ({"json": {"text": "a", "question": "b"}}, 422, "invalid_request", "question"),
        ({"json": {"text": "a", "words": []}}, 422, "invalid_request", "words"),
        ({"json": {"row": 3}}, 422, "invalid_request", "row"),
        ({"json": []}, 422, "invalid_request", None),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "invalid_request", None),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 422, "invalid_request", None),
        ({"content": b'{"text": "a"}', "headers": {"content-type": "text/plain"}}, 422, "invalid_request", "content-type"),
        ({"json": {"text": "a" * 3000}}, 413, "too_large", None),
        ({"url": "/v1/else"}, 404, "not_found", None),
        ({"method": "GET"}, 405, "method_not_allowed", None),
    ],
)
def test_a_refusal_names_the_field(
    model: ServedModel, request_: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    (found,) = asked(model, request_)
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    problem = found.json()
    assert (problem["code"], problem["param"], problem["status"]) == (code, param, status)
    assert problem["cause"]
    assert problem["remedy"]


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(model: ServedModel) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1000

    (found,) = asked(model, {"content": parts(), "headers": {"content-type": "application/json"}})
    assert (found.status_code, found.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(("pairs", "statuses"), [(True, [422, 200]), (False, [200, 422]), (None, [200, 200])])
def test_a_second_text_is_asked_for_where_the_data_had_one(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, *, pairs: bool | None, statuses: list[int]
) -> None:
    assert model.pairs is False  # as its job wrote it
    monkeypatch.setattr(model, "task", "text-regression")
    monkeypatch.setattr(model, "pairs", pairs)
    found = asked(model, {"json": {"text": "a"}}, {"json": {"text": "a", "text_pair": "b"}})
    assert [one.status_code for one in found] == statuses
    assert {one.json()["param"] for one in found if one.status_code == 422} <= {"text_pair"}


def test_a_body_that_stops_is_not_waited_for(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3600)

    (found,) = asked(model, {"content": parts(), "headers": {"content-type": "application/json"}})
    assert (found.status_code, found.json()["code"]) == (408, "request_timeout")


def test_a_key_is_asked_for_where_there_is_one_but_of_health(model: ServedModel) -> None:
    body, key = {"json": {"text": "good"}}, "k" * 20
    sent = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {key}"},
        {"authorization": "Bearer \u00e9".encode()},
    ]
    requests = [{**body, "headers": headers} for headers in [*sent, {"authorization": f"Bearer {key}"}]]
    health = [{"method": "GET", "url": url} for url in ("/metrics", "/healthz", "/readyz")]
    found = asked(model, *requests, *health, limits=Limits(8, 2000, key))
    assert [one.status_code for one in found] == [401, 401, 401, 401, 200, 401, 200, 200]
    assert found[0].headers["www-authenticate"] == "Bearer"
    assert found[0].json()["code"] == "unauthorized"


def test_without_a_key_no_page_reads_answers_by_a_name_of_its_own(model: ServedModel) -> None:
    request = {"json": {"text": "good"}}
    hosts = ("evil.example", "localhost:8000", "[::1]", "127.0.0.1")
    found = asked(model, *({**request, "headers": {"host": host}} for host in hosts))
    assert [one.status_code for one in found] == [401, 200, 200, 200]
    assert "evil.example" in found[0].json()["cause"]
    key = "k" * 20
    (known,) = asked(
        model, {**request, "headers": {"host": "api.example", "authorization": f"Bearer {key}"}}, limits=Limits(8, 2000, key)
    )
    assert known.status_code == 200


def test_more_than_may_wait_is_turned_away(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    go, entered = threading.Event(), threading.Event()

    def held(windows: Any) -> Any:
        entered.set()
        go.wait(30)
        return ServedModel.run(model, windows)

    monkeypatch.setattr(model, "run", held)

    async def story() -> list[httpx.Response]:
        server = Server(model, RULES, LIMITS)
        async with client(server) as asking:

            async def ask() -> httpx.Response:
                return await asking.post("/v1/predict", json={"text": "good word1"})

            first = asyncio.create_task(ask())
            assert await asyncio.to_thread(entered.wait, 30)
            others = [asyncio.create_task(ask()) for _ in range(40)]
            async with asyncio.timeout(30):
                for turned in itertools.islice(asyncio.as_completed(others), 40 - LIMITS.queue):
                    assert (await turned).status_code == 503
            assert server.batcher.waiting == LIMITS.queue
            go.set()
            found = await asyncio.gather(first, *others)
            counted = (await asking.get("/metrics")).text
        assert 'lathe_serve_requests_total{status="200"} 9.0' in counted
        assert 'lathe_serve_requests_total{status="503"} 32.0' in counted
        assert "lathe_serve_open_requests 0.0" in counted
        return list(found)

    found = asyncio.run(story())
    assert sorted(one.status_code for one in found) == [200] * 9 + [503] * 32
    turned = next(one for one in found if one.status_code == 503)
    assert int(turned.headers["retry-after"]) >= 1
    assert turned.json()["code"] == "server_busy"
    assert len({json.dumps(one.json()["scores"]) for one in found if one.status_code == 200}) == 1


def test_a_failing_model_is_an_error_of_the_server(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "run", lambda _: 1 / 0)
    (found,) = asked(model, {"json": {"text": "good"}})
    assert (found.status_code, found.json()["code"]) == (500, "internal_error")


def test_the_metrics_are_prometheus_text(model: ServedModel) -> None:
    *_, found = asked(model, {"json": {"text": "good"}}, {"json": {}}, {"method": "GET", "url": "/metrics"})
    assert found.headers["content-type"].startswith("text/plain")
    lines = found.text.splitlines()
    for line in (
        'lathe_serve_requests_total{status="200"} 1.0',
        'lathe_serve_requests_total{status="422"} 1.0',
        "lathe_serve_batch_rows_count 1.0",
        "lathe_serve_wait_seconds_count 1.0",
        "lathe_serve_seconds_count 1.0",
        "lathe_serve_waiting_rows 0.0",
    ):
        assert line in lines
    assert any(line.startswith('lathe_serve_model_info{artifact="quantized-onnx-int8",format="onnx"') for line in lines)
