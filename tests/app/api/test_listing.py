"""Lists of jobs as the page of jobs uses them: searched, told of changes, and in few queries however long."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.app.api.conftest import Json, problem
from tests.app.api.finished import end_well
from tests.conftest import Service

STREAM = {"Accept": "text/event-stream"}


def events(stream: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Read a stream of server-sent events: (name, data)."""
    name = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def send(http: httpx.Client, body: Json, name: str) -> str:
    return str(http.post("/v1/jobs", json={**body, "name": name}).json()["id"])


def test_a_search_finds_part_of_a_name_an_id_or_an_owner(service: Service, http: httpx.Client, request_body: Json) -> None:
    plain, percent = send(http, request_body, "Reviews, small"), send(http, request_body, "100% of it")
    guest = http.post("/v1/keys", json={"name": "night shift"}).json()["key"]
    with service.client(guest) as other:
        theirs = send(other, request_body, "tweets_2")

    def found(search: str) -> list[str]:
        return [job["name"] for job in http.get("/v1/jobs", params={"search": search}).json()["items"]]

    assert found("reviews") == found("REVIEWS,") == found(plain) == ["Reviews, small"]
    assert found("%") == found("100%") == ["100% of it"]
    assert found("ts_2") == ["tweets_2"]
    assert found("t_2") == []  # a sign of LIKE's is itself
    assert found("Night") == ["tweets_2"]
    assert len(found("  ")) == 3
    assert found("nothing like it") == found("\\") == []
    owners = {job["id"]: job["owner"] for job in http.get("/v1/jobs").json()["items"]}
    assert owners == {plain: "first", percent: "first", theirs: "night shift"}
    assert http.get("/v1/jobs", params={"search": "tweets", "state": "failed"}).json()["items"] == []


def test_finished_jobs_tell_ratios_and_waiting_ones_a_place(service: Service, http: httpx.Client, request_body: Json) -> None:
    done, second, third = (send(http, request_body, name) for name in ("one", "two", "three"))
    half = dict.fromkeys(("parameter_reduction", "latency_reduction"), 0.5)
    ratios = {**half, "size_reduction": 0.75, "speed_up": 2.0, "retention": 0.99, "retention_above_chance": None}
    end_well(service, done, json.dumps({"ratios": ratios, "much": "more"}))
    listed = {job["id"]: job for job in http.get("/v1/jobs").json()["items"]}
    assert listed[done]["ratios"]["size_reduction"] == 0.75
    assert http.get(f"/v1/jobs/{done}").json()["ratios"] == listed[done]["ratios"]
    assert listed[second]["ratios"] is None
    assert listed[second]["queue_position"] < listed[third]["queue_position"]
    for job in (second, third):
        assert http.get(f"/v1/jobs/{job}").json()["queue_position"] == listed[job]["queue_position"]


def test_a_list_tells_what_changes_in_it(http: httpx.Client, request_body: Json) -> None:
    first = send(http, request_body, "first")
    with http.stream("GET", "/v1/jobs", params={"state": "queued"}, headers=STREAM) as stream:
        told = events(stream)
        assert next(told) == ("jobs", {"jobs": [{"id": first, "version": 2}]})
        second = send(http, request_body, "second")
        assert [job["id"] for job in next(told)[1]["jobs"]] == [second, first]
        http.post(f"/v1/jobs/{second}/cancel")
        assert [job["id"] for job in next(told)[1]["jobs"]] == [first]
    problem(http.get("/v1/jobs", params={"label": "none"}, headers=STREAM), 422, "invalid_request", "label")
    problem(http.get("/v1/jobs", params={"page_token": "?"}, headers=STREAM), 422, "invalid_request", "page_token")


def test_a_stream_of_events_tells_the_jobs_state_where_it_is_asked_to(http: httpx.Client, request_body: Json) -> None:
    job = send(http, request_body, "watched")
    with http.stream("GET", f"/v1/jobs/{job}/events", params={"states": "true"}, headers=STREAM) as stream:
        told = events(stream)
        assert next(told)[0] == "queued"
        name, data = next(told)
        assert (name, data["state"], data["progress"]) == ("state", "queued", None)
        http.post(f"/v1/jobs/{job}/cancel")
        assert next(told)[0] == "cancelled"
        name, after = next(told)
        assert (name, after["state"]) == ("state", "cancelled")
        assert after["version"] > data["version"]
        assert list(told) == []
    with http.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as stream:
        assert [name for name, _ in events(stream)] == ["queued", "cancelled"]
