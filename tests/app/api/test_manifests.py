"""Manifests of many files: listed in pages, shown in pages, and whole before the upload is sealed."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from app.store.resources import MOST_FILES
from tests.app.api.conftest import Json, entry, problem, sha
from tests.app.api.test_quotas import limit, refused
from tests.conftest import Service

NAMES = ("train/Straße 東京/ein Bild (1).jpg", "train/it's 100%, #1 & more/ü.png", "train/e\u0301te\u0301/\U0001f600.jpg")


def image(path: str) -> Json:
    return entry(path, path.encode())


def body(files: list[Json], rest: list[Json] | None = None, **changes: Any) -> Json:
    later = {} if rest is None else {"rest": {"files": len(rest), "bytes": sum(file["size"] for file in rest)}}
    said = {"name": "photos", "task": "image-classification", "format": "folder", "splits": {"train": ["train"]}}
    return {**said, "files": files, **later, **changes}


def create(http: httpx.Client, files: list[Json], rest: list[Json] | None = None, **changes: Any) -> str:
    made = http.post("/v1/datasets", json=body(files, rest, **changes))
    assert made.status_code == 201, made.text
    return f"/v1/datasets/{made.json()['id']}"


def listed(http: httpx.Client, place: str, size: int) -> Iterator[Json]:
    address = f"{place}/files?page_size={size}"
    while True:
        page = http.get(address)
        assert len(page.json()["items"]) <= size
        yield from page.json()["items"]
        if page.json()["next_page_token"] is None:
            assert "link" not in page.headers
            return
        address = page.links["next"]["url"]


def test_names_are_what_people_call_their_files(http: httpx.Client) -> None:
    place = create(http, [image(name) for name in NAMES])
    for name in NAMES:
        sent = http.put(f"{place}/files/{quote(name)}", content=name.encode())
        assert (sent.status_code, sent.json()["path"], sent.json()["uploaded"]) == (200, name, True)
    assert {file["path"] for file in listed(http, place, 2)} == set(NAMES)
    assert http.post(f"{place}/complete").json()["state"] == "validating"


REFUSED = ["a/../b.jpg", "/a.jpg", "a/ .jpg ", "a /b.jpg", "a/.b.jpg", "-a.jpg", 'a".jpg', "a:b.jpg", "a\tb.jpg"]
REFUSED += ["a\u200bb.jpg", "a?.jpg", "a/nul.jpg", f"{'ü' * 121}.jpg", "a\\..\\b.jpg", "\u2066a.jpg"]


def test_a_name_that_is_another_s_or_nobody_s_elsewhere_is_refused(http: httpx.Client) -> None:
    place = create(http, [image("train/a/1.jpg")], [image("train/a/2.jpg")])
    for name in REFUSED:
        made = http.post("/v1/datasets", json=body([image("train/a/1.jpg"), image(name)]))
        problem(made, 422, "invalid_request", "files.1.path")
        problem(http.post(f"{place}/files", json={"files": [image(name)]}), 422, "invalid_request", "files.0.path")


def test_a_manifest_is_listed_in_pages_and_only_then_sealed(http: httpx.Client) -> None:
    files = [image(f"train/{number % 2}/{number}.jpg") for number in range(7)]
    place = create(http, files[:2], files[2:])
    shown = http.get(place).json()
    assert (shown["file_count"], shown["bytes"], len(shown["files"])) == (7, sum(file["size"] for file in files), 2)
    for count, page in ((4, files[2:4]), (4, files[2:4]), (7, files[3:])):  # a page again, and one that overlaps
        answer = http.post(f"{place}/files", json={"files": page})
        assert (answer.status_code, answer.json()) == (200, {"file_count": 7, "listed": count})
        for file in page:
            http.put(f"{place}/files/{file['path']}", content=file["path"].encode())
        lacking = f"no bytes yet for: {', '.join(paths(files[:2]))}"
        cause = problem(http.post(f"{place}/complete"), 409, "incomplete_upload", "files")["cause"]
        assert cause == ("the manifest lists 4 of its 7 files" if count < 7 else lacking)
    for file in files[:2]:
        http.put(f"{place}/files/{file['path']}", content=file["path"].encode())
    assert list(listed(http, place, 3)) == [{**file, "uploaded": True} for file in sorted(files, key=lambda file: file["path"])]
    assert http.post(f"{place}/complete").json()["state"] == "validating"
    problem(http.post(f"{place}/files", json={"files": files[:1]}), 409, "already_complete")


def paths(files: list[Json]) -> list[str]:
    return [file["path"] for file in files]


def test_what_was_declared_is_what_is_listed(http: httpx.Client) -> None:
    first, other = image("train/a/1.jpg"), image("train/b/2.jpg")
    place = create(http, [first], [other])

    def wrong(*files: Json) -> str:
        before = list(listed(http, place, 5))
        cause: str = problem(http.post(f"{place}/files", json={"files": list(files)}), 422, "invalid_request", "files")["cause"]
        assert list(listed(http, place, 5)) == before
        return cause

    assert "2 files of" in wrong({**other, "size": 9})
    assert "3 files of" in wrong(other, image("train/b/3.jpg"))
    assert "another file 'train/a/1.jpg'" in wrong({**first, "sha256": sha(b"other")}, other)
    assert "which differ in case only" in wrong({**other, "path": "train/a/1.JPG"})
    assert "'train/b/2.jpg' twice" in wrong(other, other)
    problem(http.post(f"{place}/files", json={"files": [image("train/b/2.exe")]}), 422, "unsafe_checkpoint", "train/b/2.exe")
    assert http.post(f"{place}/files", json={"files": [other]}).json()["listed"] == 2
    many = http.post("/v1/datasets", json={**body([first]), "rest": {"files": MOST_FILES - 1, "bytes": 0}})
    assert many.json()["file_count"] == MOST_FILES
    more = http.post("/v1/datasets", json={**body([first, other]), "rest": {"files": MOST_FILES - 1, "bytes": 0}})
    problem(more, 422, "invalid_request", "rest.files")


def test_splits_name_folders_or_files_of_the_whole_manifest(http: httpx.Client) -> None:
    first, other = image("train/a/1.jpg"), image("test/a/1.jpg")
    both = {"train": ["train/a"], "test": ["test"]}
    problem(http.post("/v1/datasets", json=body([first], splits=both)), 422, "invalid_request", "splits")
    place = create(http, [first], [other], splits=both)
    assert http.post(f"{place}/files", json={"files": [other]}).status_code == 200
    place = create(http, [first], [other], splits={**both, "test": ["tests"]})
    refusal = problem(http.post(f"{place}/files", json={"files": [other]}), 422, "invalid_request", "splits")
    assert refusal["remedy"].startswith("Delete it")
    rows = body([entry("train/a.jsonl", b"")], format="jsonl", task="text-classification")
    problem(http.post("/v1/datasets", json=rows), 422, "invalid_request", "splits")


def test_a_whole_manifest_counts_against_the_quota_from_its_first_page(service: Service, http: httpx.Client) -> None:
    first, other = image("train/a/1.jpg"), image("train/b/2.jpg")
    limit(service, bytes_stored=first["size"] + other["size"] - 1)
    answer = http.post("/v1/datasets", json=body([first], [other]))
    refused(answer, 507, "bytes_quota_exceeded", "bytes_stored", first["size"] + other["size"] - 1, 0)
    assert http.get(create(http, [first])).json()["bytes"] == first["size"]


def test_answers_carry_a_thousand_files_and_pages_the_others(http: httpx.Client) -> None:
    files = [image(f"train/{number % 3}/{number:05}.jpg") for number in range(2500)]
    place = create(http, files[:1000], files[1000:])
    for start in (1000, 2000):
        page = files[start : start + 1000]
        assert http.post(f"{place}/files", json={"files": page}).json()["listed"] == min(start + 1000, 2500)
    shown = http.get(place).json()
    assert (shown["file_count"], len(shown["files"])) == (2500, 1000)
    assert shown["files"] == list(listed(http, place, 1000))[:1000]
    assert sorted(paths(list(listed(http, place, 700)))) == sorted(paths(files))
    assert {PurePosixPath(file["path"]).parent.name for file in shown["files"]} < {"0", "1", "2"}
    problem(http.post(f"{place}/complete"), 409, "incomplete_upload", "files")
    problem(http.get(f"{place}/files?page_token=x"), 422, "invalid_request", "page_token")
    problem(http.post(f"{place}/files", json={"files": files[:1001]}), 422, "invalid_request", "files")


def test_a_model_s_manifest_may_be_long_too(http: httpx.Client) -> None:
    first, other = entry("config.json", b"{}"), entry("a model.safetensors", b"1")
    made = http.post("/v1/models", json={"name": "m", "files": [first], "rest": {"files": 1, "bytes": 1}}).json()["id"]
    assert http.post(f"/v1/models/{made}/files", json={"files": [other]}).json() == {"file_count": 2, "listed": 2}
    assert paths(list(listed(http, f"/v1/models/{made}", 1))) == ["a model.safetensors", "config.json"]
