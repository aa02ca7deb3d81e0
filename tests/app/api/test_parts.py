"""A file that comes in parts: nothing that came is sent again, whatever breaks, and nothing counts before its hash is right."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.app.api.conftest import entry, problem
from tests.conftest import Service, wait_for

DATA = os.urandom(3_000_000)


@pytest.fixture
def place(http: httpx.Client) -> str:
    """A model's only file, of which nothing has come."""
    made = http.post("/v1/models", json={"name": "m", "files": [entry("w/model.safetensors", DATA)]}).json()
    return f"/v1/models/{made['id']}/files/w/model.safetensors"


def offset(http: httpx.Client, place: str) -> int:
    answer = http.head(place)
    assert answer.status_code == 204
    assert answer.headers["upload-complete"] == ("?1" if int(answer.headers["upload-offset"]) == len(DATA) else "?0")
    return int(answer.headers["upload-offset"])


def send(http: httpx.Client, place: str, start: int, stop: int) -> httpx.Response:
    headers = {"Upload-Offset": str(start), "Content-Type": "application/partial-upload"}
    return http.patch(place, content=DATA[start:stop], headers=headers)


def stored(service: Service, place: str) -> list[bytes]:
    return [path.read_bytes() for path in (service.home / "storage" / "uploads" / place.split("/")[3]).glob("*")]


def test_a_file_comes_in_parts_and_is_whole_in_the_end(http: httpx.Client, service: Service, place: str) -> None:
    assert offset(http, place) == 0
    assert send(http, place, 0, 1_000_000).json()["uploaded"] is False
    assert offset(http, place) == 1_000_000
    problem(http.post(f"{place.split('/files')[0]}/complete"), 409, "incomplete_upload", "files")
    answer = send(http, place, 1_000_000, len(DATA))
    assert (answer.json()["uploaded"], answer.headers["upload-offset"]) == (True, str(len(DATA)))
    assert stored(service, place) == [DATA]  # the parts are gone
    assert http.post(f"{place.split('/files')[0]}/complete").status_code == 202
    assert offset(http, place) == len(DATA)
    problem(send(http, place, len(DATA), len(DATA)), 409, "already_complete")


def test_a_part_begins_where_the_last_one_ended(http: httpx.Client, place: str) -> None:
    send(http, place, 0, 10)
    for start in (0, 9, 11):
        answer = send(http, place, start, start + 5)
        problem(answer, 409, "upload_offset_mismatch", "Upload-Offset")
        assert answer.headers["upload-offset"] == "10"
    problem(http.patch(place, content=b"x"), 422, "invalid_request", "upload-offset")
    problem(http.patch(place, content=b"x", headers={"Upload-Offset": "-1"}), 422, "invalid_request", "upload-offset")
    problem(http.patch(place, content=DATA, headers={"Upload-Offset": "10"}), 422, "size_mismatch", "size")

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield DATA[:500_000]

    problem(http.patch(place, content=endless(), headers={"Upload-Offset": "10"}), 422, "size_mismatch", "size")
    assert offset(http, place) == 10


def test_of_two_that_send_the_same_part_one_is_first(http: httpx.Client, service: Service, place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(http, place, 0, 1_500_000), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(http, place, 1_500_000, len(DATA)), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert offset(http, place) == len(DATA)
    assert stored(service, place) == [DATA]


def test_what_came_before_the_line_broke_is_kept(http: httpx.Client, service: Service, place: str) -> None:
    head = (
        f"PATCH {place} HTTP/1.1\r\nHost: lathe\r\nAuthorization: Bearer {service.database.key}\r\n"
        f"Upload-Offset: 0\r\nContent-Length: {len(DATA)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as line:
        line.sendall(head.encode() + DATA[:2_000_000])
    wait_for(lambda: offset(http, place) > 0)
    begun = offset(http, place)
    assert begun <= 2_000_000
    assert send(http, place, begun, len(DATA)).json()["uploaded"] is True
    assert stored(service, place) == [DATA]


def test_parts_outlive_the_api(http: httpx.Client, service: Service, place: str) -> None:
    send(http, place, 0, 2_999_999)
    service.kill("api")
    service.start_api()
    assert offset(http, place) == 2_999_999
    assert send(http, place, 2_999_999, len(DATA)).json()["uploaded"] is True
    assert stored(service, place) == [DATA]


def test_a_file_that_is_not_what_was_promised_begins_anew(http: httpx.Client, service: Service, place: str) -> None:
    send(http, place, 0, 1_000_000)
    wrong = http.patch(place, content=bytes(2_000_000), headers={"Upload-Offset": "1000000"})
    problem(wrong, 422, "checksum_mismatch", "sha256")
    assert offset(http, place) == 0
    assert stored(service, place) == []
    assert send(http, place, 0, len(DATA)).json()["uploaded"] is True


def test_a_file_that_is_sent_whole_takes_the_place_of_its_parts(http: httpx.Client, service: Service, place: str) -> None:
    send(http, place, 0, 1_000_000)
    assert http.put(place, content=DATA).json()["uploaded"] is True
    assert offset(http, place) == len(DATA)
    assert stored(service, place) == [DATA]
