"""Who follows a job's events across a restart of the API loses none and hears none twice."""

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.jobs import jobs
from tests.conftest import wait_for
from tests.faults.conftest import Stand


class Follower:
    """A client that keeps a stream open, and comes back with the last id where it broke off."""

    def __init__(self, stand: Stand, job_id: str) -> None:
        self.stand, self.path = stand, f"/v1/jobs/{job_id}/events"
        self.heard: list[tuple[int, str, Any]] = []

    def listen(self, until: int) -> bool:
        """Listen until so many events were heard; say whether the stream ended by itself before."""
        headers = {"Accept": "text/event-stream"}
        if self.heard:
            headers["Last-Event-ID"] = str(self.heard[-1][0])
        with self.stand.http.stream("GET", self.path, headers=headers) as answer:
            assert answer.status_code == 200
            found: dict[str, str] = {}
            for line in answer.iter_lines():
                key, _, value = line.partition(": ")
                if line:
                    found[key] = value
                elif "id" in found:
                    self.heard.append((int(found["id"]), found["event"], json.loads(found["data"])["data"]))
                    found = {}
                    if len(self.heard) == until:
                        return False
        return True


def kill_api_once(stand: Stand, ripe: Callable[[], bool]) -> None:
    """Kill the API when it is time; and at the latest after a while, or who follows its stream would wait for ever."""
    try:
        wait_for(ripe)
    finally:
        stand.service.kill("api")


def test_events_are_told_once_across_restarts_of_the_api(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.capacity.wake_after_commit", lambda *_: None)
    with Session(stand.engine, expire_on_commit=False) as session, session.begin():
        job_id = stand.queue(session).id
    with Session(stand.engine, expire_on_commit=False) as session, session.begin():
        claim = jobs.claim(session, "wkr_told", 600)

    def tell(number: int) -> None:
        for _ in range(number):
            with Session(stand.engine) as session, session.begin():
                jobs.record_event(session, claim, "log", {"level": "info", "message": "x"})

    follower = Follower(stand, job_id)
    tell(3)
    assert not follower.listen(until=4)
    assassin = threading.Thread(target=kill_api_once, args=(stand, lambda: len(follower.heard) == 6))
    assassin.start()
    tell(1)
    first = stand.http.get(f"/v1/jobs/{job_id}/events?page_size=3").json()
    with pytest.raises(httpx.TransportError):
        follower.listen(until=99)  # open, with nothing to tell, when the API dies
    assassin.join()
    tell(3)  # while nobody can hear
    stand.service.start_api()
    assert not follower.listen(until=8)
    tell(2)
    assert not follower.listen(until=10)
    with Session(stand.engine) as session, session.begin():
        jobs.finish(session, claim, {}, [])
    assert follower.listen(until=99)
    pages, token = first["items"], first["next_page_token"]
    while token:  # a token from before the restart is as good as ever
        answer = stand.http.get(f"/v1/jobs/{job_id}/events", params={"page_size": 3, "page_token": token}).json()
        pages, token = pages + answer["items"], answer["next_page_token"]
    assert [seq for seq, _, _ in follower.heard] == list(range(1, len(follower.heard) + 1))
    assert [(event["seq"], event["type"], event["data"]) for event in pages] == follower.heard
    assert follower.heard[-1][1] == "succeeded"
