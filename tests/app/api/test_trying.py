"""Questions to a job's models, as callers send them: stored once, waited for, and told when they are answered."""

import json

import httpx
import pytest

from compression.schema.prediction_request import LARGEST_IMAGE
from tests.app.api.conftest import Json, problem, sql
from tests.app.api.finished import MOMENT, done
from tests.conftest import Service

ANSWER = {"label": "positive", "scores": {"positive": 0.9}, "milliseconds": 1.0, "runs": 3, "runtime": "r", "bytes": 9}


@pytest.fixture
def place(service: Service, http: httpx.Client, request_body: Json) -> str:
    return f"/v1/jobs/{done(service, http, request_body)}/try"


def answer(service: Service, question: str) -> None:
    result = json.dumps({"asked": {"text": "good"}, "expected": None, "original": ANSWER, "compressed": ANSWER})
    statement = "UPDATE tries SET state = 'succeeded', result = %s, finished_at = %s WHERE id = %s"
    sql(service, statement, result, MOMENT, question)


def test_a_question_is_stored_and_its_answer_told(service: Service, http: httpx.Client, place: str) -> None:
    asked = http.post(place, json={"text": "good"})
    assert asked.status_code == 202
    found = asked.json()
    assert (found["state"], found["asked"], found["result"]) == ("queued", {"text": "good", "split": "test"}, None)
    assert http.get("/v1/queue").json()["tries"] >= 1
    answer(service, found["id"])
    told = http.get(f"{place}/{found['id']}", headers={"Prefer": "wait=30"}).json()
    assert (told["state"], told["result"]["compressed"]["label"]) == ("succeeded", "positive")


def test_who_cannot_wait_for_a_worker_asks_again_later(http: httpx.Client, place: str) -> None:
    asked = http.post(place, json={"row": 19}, headers={"Prefer": "wait=1"})
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    assert http.get(f"{place}/{asked.json()['id']}").json()["state"] == "queued"


def test_a_question_that_is_sent_again_is_one(service: Service, http: httpx.Client, place: str) -> None:
    key = {"Idempotency-Key": "once"}
    first, second = (http.post(place, json={"text": "good"}, headers=key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    answer(service, first.json()["id"])
    third = http.post(place, json={"text": "good"}, headers={**key, "Prefer": "wait=30"})
    assert (third.status_code, third.json()["id"], third.json()["state"]) == (200, first.json()["id"], "succeeded")
    problem(http.post(place, json={"text": "other"}, headers=key), 422, "idempotency_key_reused")


def test_what_cannot_be_asked_is_refused(http: httpx.Client, place: str) -> None:
    problem(http.post(place, json={}), 422, "invalid_request", "text")
    problem(http.post(place, json={"row": 20}), 422, "invalid_request", "row")
    problem(http.post(place, json={"text": "x" * 20_001}), 422, "invalid_request", "text")
    problem(http.post(place, json={"text": "a\0"}), 422, "invalid_request", "text")
    problem(http.post(place, json={"text": "a", "wish": "b"}), 422, "invalid_request", "wish")
    problem(http.post(place, json={"text": "a", "part": "b"}), 422, "invalid_request", "part")
    problem(http.get(f"{place}/try_unknown"), 404, "not_found")
    for _ in range(4):
        assert http.post(place, json={"text": "good"}).status_code == 202
    late = http.post(place, json={"text": "good"})
    problem(late, 429, "too_many_tries")
    assert late.headers["retry-after"] == "10"


def test_an_image_may_be_larger_than_other_bodies_and_is_not_repeated(
    service: Service, http: httpx.Client, place: str, request_body: Json
) -> None:
    sql(service, "UPDATE datasets SET task = 'image-classification' WHERE id = %s", request_body["datasets"][0])
    image = "A" * (4 * LARGEST_IMAGE // 3 - 4)
    asked = http.post(place, json={"image": image})
    assert asked.status_code == 202, asked.text[:500]
    assert asked.json()["asked"] == {"split": "test"}
    problem(http.post(place, json={"image": image + "A" * 8}), 422, "invalid_request", "image")
    problem(http.post(place, json={"image": image * 2}), 413, "too_large")
    problem(http.post(place, json={"image": "no base64!"}), 422, "invalid_request", "image")
